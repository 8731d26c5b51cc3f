"""wrk as a second opinion on closed-loop HTTP figures, where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.rows import Latencies, Row
from bench.rows import row as make_row

_DONE = """
done = function(summary, latency, requests)
  local parts = {}
  for _, p in pairs({50, 90, 99, 99.9}) do
    parts[#parts + 1] = string.format("%d", latency:percentile(p))
  end
  print("BENCH " .. summary.requests .. " " .. summary.duration .. " " .. summary.errors.status + summary.errors.connect
    + summary.errors.read + summary.errors.write + summary.errors.timeout .. " " .. table.concat(parts, " ") .. " " .. latency.max)
end
"""


def found() -> bool:
    """Whether wrk is on PATH."""
    return shutil.which("wrk") is not None


def row(
    scenario: str, subject: str, case: str, host: str, path: str, body: bytes, raw: bytes, connections: int, seconds: float
) -> Row:
    """Measure with wrk; headers are those of ``raw``. Raises RuntimeError when wrk fails."""
    head = raw.partition(b"\r\n\r\n")[0].decode("ascii")
    headers = dict(re.findall(r"\r\n([^:]+): ([^\r]*)", head))
    headers.pop("Content-Length", None)
    script = f"wrk.method = 'POST'\nwrk.body = {json.dumps(body.decode())}\n"
    script += "".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}\n" for k, v in headers.items()) + _DONE
    with tempfile.TemporaryDirectory() as tmp:
        lua = Path(tmp) / "load.lua"
        lua.write_text(script, encoding="utf-8")
        words = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(lua), f"http://{host}{path}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60)
    answer = re.search(r"^BENCH (.+)$", done.stdout, re.MULTILINE)
    if answer is None:
        raise RuntimeError(f"wrk: {done.stderr or done.stdout}")
    requests, duration_us, errors, p50, p90, p99, p999, most = (float(x) for x in answer[1].split())
    result = make_row(
        scenario,
        subject,
        case,
        generator="wrk",
        latencies=Latencies(),
        seconds=duration_us / 1e6,
        errors=int(errors),
        in_flight=connections,
        payload=len(body),
    )
    result.requests = int(requests)
    result.rate = round((requests - errors) / (duration_us / 1e6), 1)
    result.p50_us, result.p90_us, result.p99_us, result.p999_us, result.max_us = p50, p90, p99, p999, most
    result.curve = []
    return result
