"""A SQLite database in /tmp: a transaction that commits, one that does not, and a query with a window."""

import os
import sqlite3
import tempfile


def f(event, context):
    handle, path = tempfile.mkstemp(dir="/tmp")
    os.close(handle)
    try:
        db = sqlite3.connect(path)
        db.execute("create table booking (id integer primary key, amount integer not null check (amount != 0))")
        with db:
            db.executemany("insert into booking (amount) values (?)", [(n,) for n in event["amounts"]])
        refused = None
        try:
            with db:
                db.execute("insert into booking (amount) values (1)")
                db.execute("insert into booking (amount) values (0)")
        except sqlite3.IntegrityError as e:
            refused = str(e)
        rows = db.execute("select amount, sum(amount) over (order by id) from booking order by id").fetchall()
        db.close()
    finally:
        os.unlink(path)
    return {"rows": rows, "refused": refused}
