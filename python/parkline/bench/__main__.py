"""Measures the queue beside other queues, in one run: `python -m parkline.bench`.

Each round measures every peer once, one after the other; the table has the median of the rounds, in
operations a second, and how many times `multiprocessing.Queue` that is. Peers that are not installed
are left out: `pip install hyperq faster-fifo quick-queue aioprocessing iceoryx2 janus culsans`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from html import escape
from typing import Any

import parkline

from .workloads import Workload, workloads

Table = dict[str, dict[str, dict[str, Any]]]


def measure(name: str, workload: Workload, rounds: int, said: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for nth in range(rounds):
        for peer, call in workload.items():
            entry = found.setdefault(peer, {"rates": [], "note": ""})
            if "missing" in entry:
                continue
            tell(f"{said} {name}, round {nth + 1} of {rounds}: {peer}")
            try:
                measured = call()
            except Exception as error:
                entry["missing"] = f"{type(error).__name__}: {error}"
            else:
                entry["rates"].append(measured.rate)
                entry["note"] = measured.note
    for entry in found.values():
        if "missing" not in entry:
            entry["rate"] = statistics.median(entry["rates"])
    return found


def tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def show(name: str, found: dict[str, dict[str, Any]]) -> None:
    base = found.get("multiprocessing.Queue", found.get("run_in_executor", {})).get("rate")
    print(f"\n{name}")
    for peer, entry in found.items():
        if "missing" in entry:
            print(f"  {peer:24} not measured: {entry['missing']}")
            continue
        rate, low, high = entry["rate"], min(entry["rates"]), max(entry["rates"])
        times = f"{rate / base:7.2f} x" if base else " " * 9
        print(f"  {peer:24} {rate:12,.0f}/s {times}  ({low:,.0f} to {high:,.0f})  {entry['note']}")


def chart(table: Table) -> str:
    """Bars, the longest of each workload as wide as the page."""
    width, line, label = 900, 18, 200
    rows: list[str] = []
    y = 24
    for name, found in table.items():
        rows.append(f'<text x="8" y="{y}" font-weight="bold">{escape(name)}</text>')
        y += line
        rates = {peer: entry["rate"] for peer, entry in found.items() if "rate" in entry}
        for peer, rate in rates.items():
            bar = max(1, int((width - label - 130) * rate / max(rates.values())))
            fill = "#1f6feb" if peer == "parkline" else "#9aa4b2"
            rows.append(f'<text x="{label - 8}" y="{y}" text-anchor="end">{escape(peer)}</text>')
            rows.append(f'<rect x="{label}" y="{y - 11}" width="{bar}" height="13" fill="{fill}"/>')
            rows.append(f'<text x="{label + bar + 6}" y="{y}">{rate:,.0f}/s</text>')
            y += line
        y += line // 2
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
    style = 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    return head + style + "".join(rows) + "</svg>\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parkline.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--scale", type=float, default=1.0, help="how many items; default: 1")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--output", default="parkline-bench", help="of the .json and .svg")
    chosen = parser.parse_args()
    table: Table = {}
    all_of_them = {k: v for k, v in workloads(chosen.scale).items() if chosen.only in k}
    if not all_of_them or chosen.rounds < 1:
        parser.error("nothing to measure")
    began = time.monotonic()
    for nth, (name, workload) in enumerate(all_of_them.items()):
        said = f"[{nth + 1}/{len(all_of_them)}, {time.monotonic() - began:.0f} s]"
        table[name] = measure(name, workload, chosen.rounds, said)
        tell("")
        show(name, table[name])
        sys.stdout.flush()
    machine = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "backend": parkline.backend()[0],
    }
    with open(f"{chosen.output}.json", "w") as file:
        json.dump({"machine": machine, "workloads": table}, file, indent=1)
    with open(f"{chosen.output}.svg", "w") as file:
        file.write(chart(table))
    print(f"\n{chosen.output}.json and {chosen.output}.svg written; {machine}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
