"""Tables from comma-separated text files, checked line by line."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradevo.datasets.files import File, read_bytes
from gradevo.datasets.names import DataError, hint
from gradevo.datasets.sources import as_number
from gradevo.datasets.tables import Table, column_of, is_missing, table_of


@dataclass(frozen=True)
class _Sheet:
    file: File
    header: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_csv(
    path: Path,
    *,
    target: str | None = None,
    test: Path | None = None,
    most: int | None = None,
) -> Table:
    """Read a CSV file, gzipped or not, and a second one with its test rows if there is one.

    Args:
        path: The file; its first line holds the column names.
        target: The column with the labels; the last one by default.
        test: A file with the same columns, in any order, that holds the test rows.
        most: Bytes that a gzipped file may hold; None: a hundred times its own, and 256 MB.

    Returns:
        The table, with the test rows at its end.

    Raises:
        DataError: A file is missing, empty, ragged or not text, or a column is not there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.csv"
    ...     _ = path.write_text("size,kind\\n1,a\\n2,b\\n")
    ...     read_csv(path).labels
    ('a', 'b')
    """
    sheet = _read_sheet(File(path, most=most))
    index = _target_index(sheet, target)
    sheets = [sheet]
    if test is not None:
        sheets.append(_aligned(_read_sheet(File(test, "test", most)), sheet))
    labels = [label for part in sheets for label in _labels(part, index)]
    columns = [column_of(cells) for cells in zip(*(r for s in sheets for r in s.rows), strict=True)]
    names = sheet.header[:index] + sheet.header[index + 1 :]
    own_test = 0 if test is None else len(sheets[1].rows)
    return table_of(names, columns[:index] + columns[index + 1 :], labels, own_test)


def _read_sheet(file: File) -> _Sheet:
    records = _records(file)
    _, header = next(records, (1, []))
    _check_header(file, header)
    lines, rows = [], []
    for line, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{file} must have {len(header)} fields in every line, as in its header, but has "
                f"{len(cells)} in line {line}"
            )
        lines.append(line)
        rows.append(cells)
    if not rows:
        raise DataError(f"{file} must hold rows, but holds a header only")
    return _Sheet(file, header, rows, lines)


def _records(file: File) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(_text(file), newline=""), skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) or len(cells) > 1:
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(
            f"{file} must be CSV, but line {reader.line_num} is not: {error}"
        ) from error


def _text(file: File) -> str:
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} must be UTF-8 text, but byte {error.start} is not") from error


def _check_header(file: File, header: list[str]) -> None:
    if len(header) < 2:
        raise DataError(
            f"{file} must have at least 2 columns separated by commas, but has {len(header)}"
        )
    for name, times in Counter(header).items():
        number = as_number(name)
        if number is not None and not number.is_integer():
            raise DataError(f"{file} must begin with the column names, but begins with {name}")
        if times > 1:
            raise DataError(
                f"{file} must begin with the column names, all different, but has '{name}' "
                f"{times} times"
            )


def _target_index(sheet: _Sheet, target: str | None) -> int:
    if target is None:
        return len(sheet.header) - 1
    if target not in sheet.header:
        raise DataError(
            f"target must be a column of '{sheet.file.path}', but is '{target}'"
            f"{hint(target, sheet.header)}; the columns are {', '.join(sheet.header)}"
        )
    return sheet.header.index(target)


def _aligned(test: _Sheet, train: _Sheet) -> _Sheet:
    if set(test.header) != set(train.header):
        odd = sorted(set(test.header) ^ set(train.header))
        raise DataError(
            f"{test.file} must have the columns of '{train.file.path}', but only one of them has "
            f"{', '.join(odd)}"
        )
    order = [test.header.index(name) for name in train.header]
    return _Sheet(test.file, train.header, [[r[i] for i in order] for r in test.rows], test.lines)


def _labels(sheet: _Sheet, index: int) -> list[str]:
    for line, cells in zip(sheet.lines, sheet.rows, strict=True):
        if is_missing(cells[index]):
            raise DataError(
                f"{sheet.file} must have a label in every row, but column '{sheet.header[index]}' "
                f"has '{cells[index]}' in line {line}"
            )
    return [cells[index] for cells in sheet.rows]
