"""Merges YAML documents, later ones over earlier ones, and writes YAML."""

import yaml


def merged(base, over):
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{k: merged(base.get(k), v) for k, v in over.items()}}
    return base if over is None else over


def f(event, context):
    value = None
    for document in yaml.safe_load_all(event["text"]):
        value = merged(value, document)
    return {"value": value, "yaml": yaml.safe_dump(value, sort_keys=True), "c": yaml.__with_libyaml__}
