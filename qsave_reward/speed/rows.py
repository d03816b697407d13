"""What the `qsave bench` commands show people: name and text of each row, from the JSON-ready results."""

from __future__ import annotations

from typing import Any

Rows = list[tuple[str, str]]


def score_rows(found: dict[str, Any]) -> Rows:
    """Rows of a `ScoreBench`, with its `scaling` if there is one."""
    rows = [(name, f"{value:.2f} {_range(found['ranges'][name])}") for name, value in found["ratios"].items()]
    rows += [(name, f"{found[name]:.4g}") for name in ("clips_per_s", "tokens_per_s", "flops_share")]
    rows.append(("peak_mb", _megabytes(found["peak_mb"])))
    for group in ("stages_ms", "tokens_per_clip", "flops", "max_difference", "peer"):
        rows += [(f"{group}.{name}", f"{value:.3g}") for name, value in found[group].items()]
    for name in ("clips", "tokens") if "scaling" in found else ():
        curve = found["scaling"][name]
        rows.append((f"scaling.{name}", f"exponent {curve['exponent']:.3f}, R2 {curve['r2']:.4f}"))
    return rows


def decode_rows(found: dict[str, Any]) -> Rows:
    """Rows of a `DecodeBench`."""
    rows = [("vs_fastest", f"{found['ratios']['vs_fastest']:.2f}"), ("exact", str(found["exact"]).lower())]
    for file in found["files"]:
        times = ", ".join(f"{name} {value:.0f}" for name, value in file["ms"].items())
        spread = f"{file['vs_fastest']:.2f} {_range(file['range'])}"
        rows.append((file["film"]["name"], f"{spread} of {file['fastest']}; ms: {times}"))
    return rows + _skipped(found)


def drift_rows(found: dict[str, Any]) -> Rows:
    """Rows of a `DriftBench`."""
    batches, worst = found["invariance"], found["invariance"]["worst"]
    rows = [
        (
            "invariance.max_difference",
            f"{batches['max_difference']:.2g}, below {batches['tolerance']:g} wanted",
        ),
        ("invariance.comparisons", str(batches["comparisons"])),
        (
            "invariance.worst",
            f"{worst['dimension']} of clip {worst['clip']}: {worst['alone']:.6f} alone, "
            f"{worst['together']:.6f} in {', '.join(map(str, worst['batch']))}",
        ),
        ("float32", f"{found['clips_per_s']:.4g} clips/s"),
    ]
    for name, one in found["precisions"].items():
        ranks = ", ".join("-" if value is None else f"{value:.4f}" for value in one["srcc"].values())
        rows.append((name, f"difference {one['max_difference']:.2g}, mean {one['mean_difference']:.2g}"))
        rows.append(("", f"SRCC {ranks}"))
        speed = f"{one['clips_per_s']:.4g} clips/s, {one['ratio_vs_float32']:.2f} {_range(one['range'])}"
        rows.append(("", f"{speed} times float32"))
    return rows + _skipped(found)


def memory_rows(found: dict[str, Any]) -> Rows:
    """Rows of a `MemoryBench`."""
    rows = [("flat", f"{str(found['flat']).lower()} (peak within {found['tolerance_percent']:g} %)")]
    for kind in ("resident", "allocated", "cuda"):
        if (one := found[kind]) is None:
            continue
        rows.append((f"{kind}.growth", f"{one['growth_mb']:.1f} MB, {one['growth_percent']:.2f} %"))
        rows.append((f"{kind}.slope", f"{one['slope_mb_per_100_clips']:.2f} MB per 100 clips"))
        rows += [
            (f"{kind} after {point['clips']}", f"{point['now_mb']:.1f} MB, peak {point['peak_mb']:.1f}")
            for point in one["readings"]
        ]
    return rows


def train_rows(found: dict[str, Any]) -> Rows:
    """Rows of a `TrainBench`."""
    return [
        ("s_per_step", f"{found['s_per_step']:.3g} {_range(found['range'])}"),
        *((name, f"{found[name]:.4g}") for name in ("clips_per_s", "tokens_per_s")),
        ("data_share", f"{found['data_share']:.3f}"),
        ("peak_mb", _megabytes(found["peak_mb"])),
    ]


def _range(pair: tuple[float, float]) -> str:
    return f"({pair[0]:.2f} to {pair[1]:.2f})"


def _megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


def _skipped(found: dict[str, Any]) -> Rows:
    return [(name, f"skipped, {reason}") for name, reason in found["skipped"].items()]
