"""The tables: quality and time of each method in each cell, constraints of each layer; as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from constraint_algebra.files.space import folder_within
from constraint_algebra.files.writing import write as write_file
from paper_repro.plan import CELL, METHODS, OURS
from paper_repro.study import BROKEN, IMPOSSIBLE

ESCAPES = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "→": r"$\to$", "×": r"$\times$", "≥": r"$\geq$"}
REFUSED = {IMPOSSIBLE}
CUT_SHORT = {"FAILED", "OUT_OF_TIME", BROKEN}  # what such a run took is no measure of the method
CAPTIONS = {
    "quality": "Quality: median PSNR over all runs of a cell (values in [0, 1], data_range 1; a run without an image"
    " counts as infinitely wrong), and how many runs were recognised, with a mean squared error below 1e-2. MSE, SSIM"
    " and exact runs are in quality.csv.",
    "time": "Processor time of one run, one thread: the median of the runs that came to an end; ≥ where none did. Peak"
    " memory is in time.csv.",
    "rivals": "The library beside the best baseline of each cell. MSE is the median over all runs. CPU s is median"
    " processor time: of the library, and of the recognised runs of the baseline that takes least for them; empty where"
    " nobody recognises any.",
    "constraints": "Constraints of each convolution as reported (counted) and needed, with all outputs active: filters,"
    " and rows of both kinds. A share above 100 % says that more filters are needed than the layer has.",
    "constraint_kinds": "What weight equations, gradient equations and both tell of each convolution's input: generic"
    " rank and determined unknowns, as shares of the unknowns, with the ReLUs active that one image leaves active.",
}
# How a cell is written: what it says, of which method.
Text = Callable[["pd.Series[float]"], str]


def quality(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each cell and method.

    A cell is a network with its activations, start, data set and precision. The columns: runs; impossible, refused by
    the method, and out of time; recognised and exact, mean squared error below 1e-2 and below 1e-6; median MSE and
    PSNR over all runs, a run without an image counting as infinitely wrong; median SSIM of the images; median CPU
    seconds of the runs that came to an end, of all where none did, and of those recognised; the largest; largest
    memory; the median share of determined values, where the method tells.
    """
    lines = []
    for key, group in rows.groupby([*CELL, "method"], sort=False):
        mse = group["mse"].astype(float).fillna(math.inf)
        worked = group[~group["outcome"].isin(REFUSED)]
        ended = worked[~worked["outcome"].isin(CUT_SHORT)]
        lines.append(
            {
                **dict(zip((*CELL, "method"), key, strict=True)),
                "runs": len(group),
                "impossible": len(group) - len(worked),
                "out of time": int((group["outcome"] == "OUT_OF_TIME").sum()),
                "recognised": int(group["recognised"].sum()),
                "exact": int(group["exact"].sum()),
                "mse": mse.median(),
                "psnr": group["psnr"].astype(float).fillna(-math.inf).median(),
                "ssim": group["ssim"].median(),
                "ended": len(ended),
                "cpu": (worked if ended.empty else ended)["cpu"].median(),
                "cpu recognised": group.loc[group["recognised"].astype(bool), "cpu"].median(),
                "longest cpu": worked["cpu"].max(),
                "memory MB": worked["memory_mb"].max(),
                "determined": (group["determined"] / group["values"]).median(),
            }
        )
    return pd.DataFrame(lines)


def side_by_side(cells: pd.DataFrame, text: Text) -> pd.DataFrame:
    """Return one line for each cell, and the methods side by side, each told by `text`."""
    lines: dict[tuple[object, ...], dict[str, str]] = {}
    for _, row in cells.iterrows():
        key = tuple(row[name] for name in CELL)
        lines.setdefault(key, dict.fromkeys(METHODS, ""))[row["method"]] = text(row)
    columns = {method: title for method, title in METHODS.items() if method in set(cells["method"])}
    table = pd.DataFrame([dict(zip(CELL, key, strict=True)) | told for key, told in lines.items()])
    return table[[*CELL, *columns]].rename(columns=columns)


def quality_text(row: pd.Series) -> str:
    """Return median PSNR and how many runs were recognised, or why there are none."""
    if row["impossible"] == row["runs"]:
        return "impossible"
    if row["out of time"] == row["runs"]:
        return f"out of time, 0 of {row['runs']}"
    psnr = f"{row['psnr']:.1f} dB" if math.isfinite(row["psnr"]) else "no image"
    return f"{psnr}, {row['recognised']} of {row['runs']}"


def time_text(row: pd.Series) -> str:
    """Return median CPU seconds, a lower bound where no run came to an end."""
    if row["impossible"] == row["runs"]:
        return "impossible"
    late = "≥ " if row["out of time"] and not row["ended"] else ""
    return f"{late}{row['cpu']:.2g} s" if row["cpu"] < 10 else f"{late}{row['cpu']:.0f} s"


def rivals(cells: pd.DataFrame) -> pd.DataFrame:
    """Return, for each cell with a baseline, how the library stands beside the best one.

    Columns: `at least as good`, whether the library recognises no smaller share of runs than the best baseline and its
    median MSE is no larger, missing where nobody recognises anything; `faster`, whether its median CPU time is below
    that of the successful runs of every baseline, missing where there are none or the library has none.
    """
    lines = []
    for key, group in cells.groupby(list(CELL), sort=False):
        ours, others = group[group["method"] == OURS], group[(group["method"] != OURS) & (group["impossible"] == 0)]
        if ours.empty or others.empty:
            continue
        mine = ours.iloc[0]
        best = others.sort_values("mse").iloc[0]
        share = (others["recognised"] / others["runs"]).max()
        successful = others[others["recognised"] > 0]
        both = mine["recognised"] > 0 and not successful.empty
        good = mine["recognised"] / mine["runs"] >= share and (mine["mse"] <= best["mse"] or not best["recognised"])
        lines.append(
            {
                **dict(zip(CELL, key, strict=True)),
                "library MSE": mine["mse"],
                "best baseline": best["method"],
                "baseline MSE": best["mse"],
                "library CPU s": mine["cpu"],
                "baseline CPU s": successful["cpu recognised"].min() if both else math.nan,
                "at least as good": bool(good) if mine["recognised"] or not successful.empty else None,
                "faster": bool(mine["cpu"] < successful["cpu recognised"].min()) if both else None,
                "determined": mine["determined"],
            }
        )
    return pd.DataFrame(lines)


def write(table: pd.DataFrame, folder: Path, name: str, caption: str, *, shown: pd.DataFrame | None = None) -> None:
    """Write a table as CSV, and the version to be read (by default the same) as Markdown and LaTeX with a caption."""
    readable = table if shown is None else shown
    tex = [r"\begin{table}", rf"\caption{{{_escaped(caption)}}}", latex(readable), r"\end{table}"]
    texts = {
        "csv": table.to_csv(index=False),
        "md": f"{caption}\n\n{markdown(readable)}\n",
        "tex": "\n".join(tex) + "\n",
    }
    place = folder_within(folder.parent, folder.name)
    for suffix, text in texts.items():
        write_file(place / f"{name}.{suffix}", text.encode())


def markdown(table: pd.DataFrame) -> str:
    r"""Return a table in Markdown.

    >>> print(markdown(pd.DataFrame({"a": [1, 2], "b": ["x", "y|z"]})))
    | a | b |
    | ---: | :--- |
    | 1 | x |
    | 2 | y\|z |
    """
    sides = ["---:" if pd.api.types.is_numeric_dtype(table[name]) else ":---" for name in table]
    head = [_line(map(str, table.columns)), _line(sides)]
    return "\n".join([*head, *(_line(_plain(v).replace("|", r"\|") for v in row) for row in table.to_numpy(object))])


def latex(table: pd.DataFrame) -> str:
    r"""Return a table in LaTeX, for the package booktabs.

    >>> print(latex(pd.DataFrame({"share %": [1.5]})))
    \begin{tabular}{r}
    \toprule
    share \% \\
    \midrule
    1.5 \\
    \bottomrule
    \end{tabular}
    """
    sides = "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in table)

    def line(values: Iterable[object]) -> str:
        return " & ".join(_escaped(_plain(value)) for value in values) + r" \\"

    body = [line(row) for row in table.to_numpy(object)]
    start = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", line(table.columns), r"\midrule"]
    return "\n".join([*start, *body, r"\bottomrule", r"\end{tabular}"])


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def _plain(value: object) -> str:
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)
