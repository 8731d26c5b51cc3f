"""Groups, sums and reshapes a list of records."""

import collections
import datetime
import decimal


def f(event, context):
    groups = collections.defaultdict(list)
    for record in event["records"]:
        groups[record["region"]].append(record)
    return {
        region: {
            "count": len(records),
            "total": sum(decimal.Decimal(r["amount"]) for r in records),
            "days": sorted({datetime.datetime.fromisoformat(r["at"]).date().isoformat() for r in records}),
            "best": max(records, key=lambda r: decimal.Decimal(r["amount"]))["name"],
        }
        for region, records in sorted(groups.items())
    }
