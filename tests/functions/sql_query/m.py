"""A query to a PostgreSQL server, by a driver that is not part of Python."""

import pg8000.dbapi


def f(event, context):
    try:
        connection = pg8000.dbapi.connect("engine", host=event["host"], database="postgres", timeout=event["timeout"])
    except pg8000.dbapi.InterfaceError as e:
        return {"error": str(e)}
    try:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS visits (who text)")
        cursor.execute("INSERT INTO visits VALUES (%s)", (context.function_name,))
        cursor.execute("SELECT who, host(inet_client_addr()) FROM visits")
        rows = [list(row) for row in cursor.fetchall()]
        connection.commit()
        return {"rows": rows}
    finally:
        connection.close()
