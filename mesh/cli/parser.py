"""What can be typed: the commands of ``meshctl``, their options and their help. Knows nothing of what they do."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from mesh.core.errors import NotBuilt

# Commands and options that are part of the contract and come later, each with what serves meanwhile.
NOT_BUILT = {
    "models": "`meshctl best JOB` names the best checkpoint, and `meshctl get` gets it",
    "runs": "`meshctl jobs`, pause, resume and cancel serve jobs",
    "invite": "meshes have no members' certificates yet; they run on loopback",
    "approve": "meshes have no members' certificates yet; they run on loopback",
    "revoke": "meshes have no members' certificates yet; they run on loopback",
    "top": "`meshctl peers` and `meshctl jobs` show the present state",
    "doctor": "`meshctl status` and `meshctl peers` show what is wrong with nodes",
    "events": "meshd writes its events to its log",
    "bench": "`make bench` runs the benchmarks from a checkout",
    "completion": "`meshctl --help` lists the commands",
}

_EXAMPLES = """\
examples:
  meshctl peers                                   who is there, who leads, what they offer
  meshctl submit sweep.yaml --dry-run             what a file would start
  meshctl submit sweep.yaml --wait                start it and watch it
  meshctl submit --param lr 0.1 0.01 --param seed 1 2 3 -- python train.py
  meshctl explain j4k2m9x7qa.3                    why a task runs where it runs, or what it waits for

exit codes: 0 done; 1 what was asked for failed; 2 wrong usage or file; 69 no mesh reachable; 75 try again;
124 timed out; 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error of meshctl."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # argparse takes -0.1 for a number and -1e-5 for an option, until Python 3.14.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"meshctl: {message}; `{self.prog} --help` shows how\n")


def refuse_unbuilt(arguments: list[str]) -> None:
    """Raises ``NotBuilt`` for a command that only the contract knows yet."""
    options_with_value = {"--address", "-o", "--output", "--mesh"}
    waiting = False
    for argument in arguments:
        if waiting:
            waiting = False
        elif argument in options_with_value:
            waiting = True
        elif not argument.startswith("-"):
            if argument in NOT_BUILT:
                raise NotBuilt(f"'{argument}' is not built yet", NOT_BUILT[argument])
            return


def parse(arguments: list[str]) -> argparse.Namespace:
    """Exits with 2 on wrong usage. What follows ``--`` is ``submit``'s command."""
    refuse_unbuilt(arguments)
    command: list[str] | None = None
    if "--" in arguments:
        place = arguments.index("--")
        arguments, command = arguments[:place], arguments[place + 1 :]
    parser = _parser()
    # Not set_defaults: the parsers share these options, and the later one would undo what the earlier one read.
    parsed = parser.parse_args(arguments, argparse.Namespace(address=None, mesh=None, output="text"))
    if command is not None and parsed.verb != "submit":
        parser.error(f"a command after -- belongs to submit, not to {parsed.verb}")
    parsed.command = command
    if parsed.verb == "submit":
        _check_submit(parser, parsed)
    return parsed


def _check_submit(parser: Parser, parsed: argparse.Namespace) -> None:
    if parsed.file is not None and parsed.command is not None:
        parser.error("submit takes a FILE or a command after --, not both")
    if parsed.file is None and parsed.command is None:
        parser.error("submit needs a FILE, or a command after --")
    if parsed.file is not None:
        of_commands = ("param", "base_config", "gpus", "metric", "goal")
        wrong = [name for name in of_commands if getattr(parsed, name) not in (None, [])]
        if wrong:
            flag = "--" + wrong[0].replace("_", "-")
            parser.error(f"{flag} belongs to a command after --; change a file's values with --set key=value")
    elif parsed.set:
        parser.error("--set changes the values of a FILE; a command takes --param and --base-config")
    if parsed.goal is not None and parsed.metric is None:
        parser.error("--goal needs the --metric that it is for")
    for param in parsed.param:
        if len(param) < 2:
            parser.error(f"--param {param[0]} has no values; write --param NAME VALUE...")


def _parser() -> Parser:
    common = Parser(add_help=False)
    group = common.add_argument_group("for every command")
    suppressed: Any = argparse.SUPPRESS  # so that it may stand before or after the command
    group.add_argument(
        "--address",
        metavar="ADDRESS",
        default=suppressed,
        help="host:port or unix:PATH (MESH_ADDRESS); without it the local daemon, then mDNS",
    )
    group.add_argument("--mesh", metavar="NAME", default=suppressed, help="only a mesh of this name")
    group.add_argument(
        "-o", "--output", choices=("text", "json"), default=suppressed, help="json: for programs, with stable names"
    )
    parser = Parser(
        prog="meshctl",
        description="Ask and use a mesh of machines, each of which runs meshd.",
        epilog=_EXAMPLES + f"\nnot built yet: {', '.join(NOT_BUILT)}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, text: str, *positional: tuple[str, str], epilog: str = "") -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for dest, what in positional:
            verb.add_argument(dest.lower().replace("|", "_"), metavar=dest, type=_id, help=what)
        return verb

    job = ("JOB", "a job's id, as `meshctl jobs` shows it")
    task = ("TASK", "a task's id: JOB.NUMBER")
    target = ("JOB|TASK", "a job's or a task's id")

    add("peers", "list the members: who leads, what each offers, or why it offers nothing")
    _submit(add("submit", "start a sweep file, or a grid of parameters over a command", epilog=_SUBMIT_EXAMPLES))
    add("jobs", "list the jobs")
    add("job", "show one job", job)
    tasks = add("tasks", "list tasks")
    tasks.add_argument("--job", metavar="JOB", type=_id, help="of this job only")
    tasks.add_argument(
        "--state",
        choices=("pending", "running", "succeeded", "failed", "cancelled"),
        default="",
        help="in this state only",
    )
    add("task", "show one task and its attempts", task)
    wait = add("wait", "wait until a job has ended; exits with 1 if it did not succeed", job)
    wait.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="give up then with exit code 124")
    add("cancel", "stop a job or a task", target)
    add(
        "pause",
        "start no more tasks of a job, and stop what has a checkpoint; the rest runs on",
        job,
    )
    add("resume", "go on with a paused job, from its checkpoints", job)
    retry = add("retry", "run what failed or was cancelled once more", target)
    retry.add_argument(
        "--force",
        action="store_true",
        help="run held tasks too (on_lost: hold), though they may run twice; without it they wait",
    )
    delete = add("delete", "forget a job that has ended, its tasks and results, everywhere and for good", job)
    delete.add_argument("--checkpoints", action="store_true", help="not built yet")
    add("priority", "change the priority", target).add_argument(
        "number", metavar="N", type=int, choices=range(1, 11), help="1 to 10, higher first"
    )
    add("forget", "say that a member was destroyed, so that nobody waits for it", ("NODE", "its name, or its id"))
    logs = add("logs", "print the output of a task", ("TASK", "a task's id; logs of nodes are not built yet"))
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the task has ended")
    logs.add_argument("--attempt", metavar="ID", default="", help="of this attempt instead of the newest")
    add("explain", "say why a task runs where it runs, or what it waits for", task)
    add("best", "show the best task of a job and its parameters", job)
    results = add("results", "show parameters and metrics of every task of a job", job)
    results.add_argument("--csv", action="store_true", help="as comma-separated values")
    results.add_argument("--parquet", action="store_true", help="not built yet")
    put = add(
        "put", "put a file or a directory into the mesh, on two nodes, and print the id under which any node gets it"
    )
    put.add_argument("file", metavar="FILE", help="what is put; it is read twice, and must not change meanwhile")
    put.add_argument("--copies", metavar="N", type=int, choices=range(1, 17), default=2, help="on N nodes, 1 to 16 (2)")
    put.add_argument("--pin", action="store_true", help="keep it, though no task needs it and a store is full")
    get = add("get", "get a file or a directory out of the mesh", ("REF", "a blob's id, or its first digits"))
    get.add_argument(
        "path", metavar="PATH", nargs="?", help="where to write it; by default here, under its first digits"
    )
    blobs = add("blobs", "list the blobs of the mesh, and the nodes that have all of each")
    blobs.add_argument("--pin", metavar="REF", help="keep this one, though no task needs it and a store is full")
    blobs.add_argument("--unpin", metavar="REF", help="let it go when room is needed")
    add("status", "show the state of the node that answers and of its mesh")
    add("version", "print the version of meshctl")
    return parser


_SUBMIT_EXAMPLES = """\
examples:
  meshctl submit sweep.yaml --set run_cap=20 --wait
  meshctl submit --param lr 0.1 0.01 --param depth 2 4 -- python train.py      four tasks: --lr=0.1 --depth=2 ...
  meshctl submit --base-config '{"epochs": 3}' --param lr 0.1 0.01 --gpus 1 -- python train.py '${args}'
  meshctl submit -- ./build.sh                                                  one task
"""


def _submit(verb: argparse.ArgumentParser) -> None:
    verb.usage = (
        "meshctl submit FILE [options]\n       meshctl submit [--param NAME VALUE...]... [options] -- COMMAND..."
    )
    verb.add_argument("file", metavar="FILE", nargs="?", help="a sweep file (YAML)")
    verb.add_argument(
        "--param", metavar=("NAME", "VALUE"), nargs="+", action="append", default=[], help="one axis of the grid"
    )
    verb.add_argument("--base-config", metavar="JSON", help="an object of parameters that are the same for all")
    verb.add_argument("--gpus", metavar="N", type=int, help="GPUs of each task of the command")
    verb.add_argument("--metric", metavar="NAME", help="what `best` compares: printed by the command as JSON lines")
    verb.add_argument("--goal", choices=("minimize", "maximize"), help="of the metric (minimize)")
    verb.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a value of the FILE")
    verb.add_argument("--name", metavar="NAME", help="the job's name, for people")
    verb.add_argument("--priority", metavar="N", type=int, choices=range(1, 11), help="1 to 10, higher first")
    verb.add_argument("--dry-run", action="store_true", help="say what would be submitted; needs no mesh")
    verb.add_argument("--wait", action="store_true", help="wait until it has ended; exits with 1 if it did not succeed")
    verb.add_argument(
        "--yes", action="store_true", help="do not ask before a very large submission, nor refuse files of over 100 MB"
    )


def _id(text: str) -> str:
    """A variable of a script that is not set must not mean everything."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an id is missing: it is empty")
    return text


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return found
