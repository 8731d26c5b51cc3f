"""Totals of orders by customer: plain data in, plain data out, an error for what is not an order."""

from decimal import Decimal


def lambda_handler(event, context):
    totals = {}
    for position, order in enumerate(event["orders"]):
        try:
            amount = Decimal(str(order["price"])) * order["quantity"]
            customer = order["customer"]
        except KeyError as missing:
            raise ValueError(f"order {position} has no {missing}") from missing
        totals[customer] = totals.get(customer, Decimal(0)) + amount
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return {
        "customers": [{"customer": customer, "total": float(total)} for customer, total in ranked],
        "total": float(sum(totals.values())),
    }
