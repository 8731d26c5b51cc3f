"""Checks an order with pydantic and says what is wrong with it."""

import decimal

import pydantic


class Line(pydantic.BaseModel):
    article: str = pydantic.Field(min_length=1)
    count: int = pydantic.Field(gt=0)
    price: decimal.Decimal


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    customer: str
    lines: list[Line]


def f(event, context):
    try:
        order = Order.model_validate(event)
    except pydantic.ValidationError as e:
        return {"errors": [[".".join(map(str, x["loc"])), x["type"]] for x in e.errors()]}
    return {"total": sum(line.count * line.price for line in order.lines), "order": order.model_dump(mode="json")}
