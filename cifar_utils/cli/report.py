"""`cifar report`: print what runs and races reached and what others published, as tables."""

from argparse import Namespace

from cifar_utils.cli.options import Subparsers, command, path, writable_file
from cifar_utils.errors import CifarError, choose, shown
from cifar_utils.sources.files import write_whole


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers, "report",
        "print what the shipped runs and races reached, and what others published, as Markdown "
        "tables", run,
        example="cifar report --write README.md",
    )  # fmt: skip
    parser.add_argument(
        "--table", metavar="NAME", help="only this one: results, board or repositories"
    )
    parser.add_argument(
        "--write", type=path, metavar="FILE",
        help="write the tables into FILE instead, each between the two comments that mark its "
        "place, as in the README",
    )  # fmt: skip


def run(options: Namespace) -> None:
    from cifar_utils.results import report

    names = [options.table] if options.table else list(report.TABLES)
    for name in names:
        choose(name, report.TABLES, "table")
    tables = {name: report.TABLES[name]() for name in names}
    if not options.write:
        print("\n\n".join(tables.values()))
        return
    writable_file(options.write, "--write")
    if not options.write.exists():
        raise CifarError(f"{options.write} does not exist; --write fills the places in a page")
    try:
        page = replaced = options.write.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CifarError(f"{options.write} is not a text file in UTF-8") from None
    for name, table in tables.items():
        start, end = report.marks(name)
        before, _, rest = replaced.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise CifarError(f"{options.write} lacks the lines {start} and {end}")
        replaced = f"{before}{start}\n{table}\n{end}{after}"
    write_whole(options.write, lambda temporary: temporary.write_text(replaced, encoding="utf-8"))
    print(f"{shown(options.write)} is {'as it was' if replaced == page else 'up to date now'}")
