"""Results -> tables, a plot, and the numbers in docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Result

KEPT = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- From here on made by `make bench ARGS=--docs`, from benchmarks/results.json; do not edit. -->\n"
END = "<!-- end -->\n"

NAMES = {
    "scalars_in_groups": "scalars, paced: ten each 5 ms", "scalars": "scalars, back to back", "images": "images 3x64x64",
    "histograms": "histograms of 1,000", "audio": "audio, 1 s", "figures": "figures", "mixed": "mixed loop, 10 ms steps",
}  # fmt: skip


KILLED = {"at once": "5,000 scalars in a tight loop", "paced": "300 scalars, 10 ms between"}
SCALARS = ("scalars_in_groups", "scalars")


def as_json(results: Result) -> str:
    """Return the results as a file of one quantity a line."""
    text = json.dumps(rounded(results), indent=1)
    return re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text) + "\n"


def rounded(value: Any) -> Any:
    """Return the same with numbers of five digits: more would be noise in a file that is kept."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(spread: dict[str, float], form: str = ".3g") -> str:
    """Return the median and, behind it, the range over the repetitions."""
    low, median, high = (number(spread[key], form) for key in ("low", "median", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def number(value: float, form: str = ".3g") -> str:
    text = f"{value:{form}}"
    return f"{value:,.0f}" if "e" in text or abs(value) >= 1000 else text


def verdict(spread: dict[str, float], bound: float, *, least: bool = False) -> str:
    met = spread["median"] >= bound if least else spread["median"] <= bound
    return "yes" if met else "**no**"


def tables(results: Result) -> str:
    """Return all tables as Markdown."""
    parts = [_about(results["about"])]
    for section, make in SECTIONS.items():
        if section in results:
            found = results[section]
            parts.append(f"Not measured: {found['error']}\n" if "error" in found else make(found))
    return "\n".join(parts)


def _about(about: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured {about['date']} with Python {about['python']} on {about['system']} {about['machine']}, {about['cpus']} CPUs,"
        f" {about['mode']} mode, {about.get('minutes', '?')} minutes. Median over the repetitions, and in brackets their"
        f" range.\nVersions: {versions}.\n"
    )


def _training(found: Result) -> str:
    calls, costs = [], []
    for name, data in found["workloads"].items():
        plain = data["plain"]
        for variant in _variants(found):
            ours = data[variant]
            if name != "mixed":
                calls.append([
                    NAMES[name], variant, _to(plain, ours, "median"), shown(ours["above"]), shown(ours["median_ratio"], ".2f"),
                    _to(plain, ours, "mean"), _to(plain, ours, "p99"), shown(ours["p99_ratio"], ".2f"),
                    verdict(ours["median_ratio"], 1.0), verdict(ours["p99_ratio"], 2.0),
                ])  # fmt: skip
            costs.append([
                NAMES[name], variant, _to(plain, ours, "cpu"), shown(ours["cpu_ratio"], ".2f"), _to(plain, ours, "wall"),
                shown(ours["wall_ratio"], ".2f"), number(ours["relay_cpu"]["median"]), verdict(ours["cpu_ratio"], 1.0),
                verdict(ours["wall_ratio"], 1.0),
            ])  # fmt: skip
    start = [
        [variant, *(shown(data[key]) for key in ("start_cpu", "end_cpu", "end_wall"))]
        for variant, data in found["session"].items()
    ]
    return "\n".join([
        "### A call on the training thread\n",
        "Microseconds, plain TensorBoard → ours. Targets: the median at most plain's (ratio 1.0), p99 at most twice plain's.\n",
        table(["call", "trackers", "median", "above plain", "ratio", "mean", "p99", "p99 ratio", "median met", "p99 met"], calls),
        "### Processor time and wall time of the training process\n",
        "Seconds, plain TensorBoard → ours, of the whole loop with `writer.flush()`. The steps' own work is a sleep: all that is",
        "counted is logging. With us, processor time includes what is done here until everything is delivered; the relay process",
        "has a column of its own. Target: both ratios below 1.\n",
        table(["loop", "trackers", "CPU", "ratio", "wall", "ratio", "relay's CPU", "CPU met", "wall met"], costs),
        "Besides, once a session, in seconds:\n",
        table(["trackers", "CPU to start", "CPU to end", "wall to end"], start),
        *(_aside(found) if "threads" in found else ()),
    ])  # fmt: skip


def _aside(found: Result) -> list[str]:
    """What else there is in the training process. (Results of before the ring have nothing of it.)"""
    rows = [
        [variant, f"{data['threads']['median']:.0f}", f"{data['our_threads']['median']:.0f}"]
        + [shown(found["workloads"][name][variant]["ring"]) if variant != "plain" else "" for name in SCALARS]
        for variant, data in found["threads"].items()
    ]
    return [
        "Threads of the training process after all these loops, those of ours among them (target: 0), and bytes that a scalar",
        "takes in the memory that it shares with the relay:\n",
        table(["trackers", "threads", "of ours", *(f"bytes: {NAMES[name]}" for name in SCALARS)], rows),
    ]


def _variants(found: Result) -> list[str]:
    return [name for name in next(iter(found["workloads"].values())) if name not in ("calls", "plain")]


def _to(plain: Result, ours: Result, key: str) -> str:
    return f"{number(plain[key]['median'])} → {number(ours[key]['median'])}"


def _delivery(found: Result) -> str:
    rows = []
    for tracker, data in found["trackers"].items():
        if "error" in data:
            rows.append([tracker, data["error"], *[""] * 5])
            continue
        rates = (found["scalars"] / data[key]["median"] for key in ("direct", "ours"))
        rows.append([
            tracker, *(f"{rate:,.0f}" for rate in rates), shown(data["throughput_ratio"], ".2f"),
            shown(data["direct"]), shown(data["ours"]), verdict(data["throughput_ratio"], 0.9, least=True),
        ])  # fmt: skip
    return "\n".join([
        "### Delivery, tracker by tracker\n",
        f"{found['scalars']:,} scalars, ten a step. Directly: a loop of the SDK's best bulk call, until the run is closed. Ours:",
        "all are queued while the relay stands still; then the program ends. Timed is that end, until the run is closed. Target:",
        "at least 0.9 of the SDK's throughput.\n",
        table(["tracker", "direct, a second", "ours, a second", "ratio", "direct, s", "exit with the queue, s", "met"], rows),
    ])  # fmt: skip


def _ends(found: Result) -> str:
    kept = []
    for name, data in found["killed"].items():
        plain, ours = data["runs"].get("plain"), {variant: runs for variant, runs in data["runs"].items() if "tracker" in runs}
        for variant, runs in ours.items():
            file, tracker = runs["file"], runs["tracker"]
            met = plain is not None and file["low"] >= plain["file"]["high"] and tracker["low"] >= file["high"]
            counts = [shown(count, ".0f") for count in (file, tracker)]
            kept.append([
                KILLED[name], variant, shown(plain["file"], ".0f") if plain else "", *counts, "yes" if met else "**no**"
            ])  # fmt: skip
    busy = found["busy"]
    parts = [
        "### Killed\n",
        "A program is killed (SIGKILL) right after its last scalar, without a flush: how many are in the event file of plain",
        "TensorBoard, in ours, and, without `replay`, in the tracker when the relay has ended. Targets: the file has no less",
        "than plain's, and the tracker no less than the file.\n",
        table(["program", "tracker", "plain's file", "our file", "tracker", "met"], kept),
        "### A busy machine\n",
    ]
    if "error" in busy:
        return "\n".join([*parts, f"Not measured: {busy['error']}\n"])
    row = [*(shown(busy[key]) for key in ("direct", "ours")), shown(busy["ratio"], ".2f"), verdict(busy["ratio"], 1.2)]
    return "\n".join([
        *parts,
        f"Five scalars into an MLflow whose store is not there yet, beside {busy['processes']} busy processes, each in a session",
        "of its own: seconds until the run is closed and has them, with MLflow's SDK in the program, and with ours. Target: a",
        "ratio of at most 1.2.\n",
        table(["the SDK, s", "ours, s", "ratio", "met"], [row]),
    ])  # fmt: skip


def _memory(found: Result) -> str:
    names = {
        "plain": "plain TensorBoard", "waited": "ours, the tracker is waited for after each 100,000", "at once": "ours, at once",
        "stalled scalars": "a tracker takes nothing: scalars", "stalled images": "a tracker takes nothing: 400 images of 200 kB",
        "trackio": "all at once, Trackio",
    }  # fmt: skip
    rows = []
    for name, data in found["runs"].items():
        sizes = [f"{data[process]['peak']:.0f}" if process in data else "" for process in ("training", "relay")]
        within = ""
        if name in found["bounded"] and "error" not in data:
            within = "yes" if max(data[process]["peak"] for process in ("training", "relay")) <= found["budget"] else "**no**"
        rows.append([names[name], *sizes, data.get("error", within)])
    return "\n".join([
        "### Memory\n",
        f"Greatest growth of resident memory, in megabytes, over {found['scalars']:,} scalars, after the first 5,000. A tracker",
        "that takes nothing stands beside one that does; there, and with Trackio, which is given the largest batches, the budget",
        f"is {found['budget']:.0f} MB (`TRACELET_MEMORY`). Where none is named, the tracker is TensorBoard.\n",
        table(["program", "training process", "relay process", "within the budget"], rows),
    ])  # fmt: skip


def _startup(found: Result) -> str:
    heavy = ", ".join(found["heavy"]) or "none"
    rows = [
        [
            f"start of Python with the package installed, no variable set ({found['repetitions']} times)",
            f"{found['without']['median']:.2f} → {found['with']['median']:.2f}",
            f"{found['difference_of_medians']:.2f} (least times: {found['least_difference']:.2f})",
            "yes" if found["difference_of_medians"] < 1.0 else "**no**",
        ],
        ["`import tracelet_shim`", shown(found["import"]), "", verdict(found["import"], 50.0)],
        ["the first look at `tracelet_shim.start_logging`, which loads it", shown(found["first_use"]), "", ""],
        ["torch, SDKs and other heavy modules that this imports", heavy, "", "yes" if not found["heavy"] else "**no**"],
    ]
    return "\n".join([
        "### Start-up\n",
        "Milliseconds. Targets: less than 1 more for a program that does not use it; the import under 50.\n",
        table(["what", "", "more", "met"], rows),
    ])


def _peers(found: Result) -> str:
    plain = found["plain"]
    rows = [["plain TensorBoard", "", *(number(plain[key]["median"]) for key in ("median", "mean", "p99", "wall")), *[""] * 5]]
    for tracker, hooks in found["trackers"].items():
        for hook, data in hooks.items():
            name = f"{tracker}'s own" if hook == "theirs" else "ours"
            if "error" in data:
                rows.append([tracker, name, data["error"], *[""] * 8])
                continue
            times = (number(data[key]["median"]) for key in ("median", "mean", "p99", "wall"))
            rows.append([tracker, name, *times, *(f"{share['median']:.0%}" for share in data["arrived"].values())])
    kinds = ["scalars", "images", "histograms", "texts", "audio"]
    return "\n".join([
        "### The trackers' own TensorBoard hooks\n",
        "The same program under each, offline: an `add_scalar` in microseconds, the whole from the first call to the end of the",
        "process in seconds, and the share of the events that is there in some form, whatever became of their values.\n",
        table(["tracker", "hook", "median", "mean", "p99", "wall to the end, s", *kinds], rows),
    ])


SECTIONS = {
    "training": _training, "delivery": _delivery, "ends": _ends, "memory": _memory, "startup": _startup, "peers": _peers,
}  # fmt: skip


def plot(results: Result, path: Path) -> None:
    """Draw what the tables say."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn = [name for name in DRAWINGS if name in results and "error" not in results[name]]
    if not drawn:
        return
    figure, axes = plt.subplots(len(drawn), 1, figsize=(9, 4 * len(drawn)), squeeze=False, layout="constrained")
    for axis, name in zip(axes[:, 0], drawn, strict=True):
        DRAWINGS[name](axis, results[name])
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axis: Any, labels: list[str], series: dict[str, list[float]], title: str, target: float) -> None:
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        axis.bar([x + i * width for x in range(len(labels))], values, width, label=name)
    axis.set_xticks([x + 0.4 - width / 2 for x in range(len(labels))], labels, rotation=20, ha="right")
    axis.axhline(target, color="black", linestyle="--", linewidth=1)
    axis.set_title(title)
    axis.legend()


def _draw_training(axis: Any, found: Result) -> None:
    workloads = found["workloads"]
    series = {f"{v} trackers": [data[v]["cpu_ratio"]["median"] for data in workloads.values()] for v in _variants(found)}
    _bars(axis, [NAMES[name] for name in workloads], series, "CPU of the training process, plain TensorBoard = 1", 1.0)


def _draw_delivery(axis: Any, found: Result) -> None:
    trackers = {name: data for name, data in found["trackers"].items() if "error" not in data}
    series = {"ours": [data["throughput_ratio"]["median"] for data in trackers.values()]}
    _bars(axis, list(trackers), series, "Scalars a second into each tracker, its SDK's best bulk call = 1", 0.9)


def _draw_peers(axis: Any, found: Result) -> None:
    trackers = {n: d for n, d in found["trackers"].items() if not any("error" in data for data in d.values())}
    series = {hook: [d[hook]["mean"]["median"] for d in trackers.values()] for hook in ("theirs", "ours")}
    _bars(axis, list(trackers), series, "Mean add_scalar in µs; line: plain TensorBoard", found["plain"]["mean"]["median"])
    axis.set_yscale("log")


DRAWINGS = {"training": _draw_training, "delivery": _draw_delivery, "peers": _draw_peers}


def keep(results: Result) -> None:
    """Keep the results as the ones that the documentation shows, and write its tables."""
    KEPT.write_text(as_json(results))
    PAGE.write_text(page(PAGE.read_text()))


def page(text: str) -> str:
    """Return docs/performance.md with the tables of the kept results."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(json.loads(KEPT.read_text()))}\n{END}{after}"
