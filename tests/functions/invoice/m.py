"""An HTML invoice from a Jinja2 template."""

import jinja2

_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    "<h1>{{ customer }}</h1>{% for item in items %}<p>{{ item.name }}: {{ '%.2f' | format(item.price * item.count) }}</p>"
    "{% else %}<p>nothing</p>{% endfor %}<b>{{ '%.2f' | format(total) }}</b>"
)


def f(event, context):
    total = sum(i["price"] * i["count"] for i in event["items"])
    return _TEMPLATE.render(customer=event["customer"], items=event["items"], total=total)
