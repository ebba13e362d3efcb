"""The documents that nodes answer with, as text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from mesh.cli.output import Output, flat, literal, pairs, shown, size
from mesh.client.jobs import result_row

Document = dict[str, Any]


def peers(output: Output, documents: list[Document]) -> None:
    rows = [
        (
            peer["name"],
            peer["id"],
            peer["role"],
            "leader" if peer["leader"] else "",
            peer["state"],
            peer["address"],
            "" if peer["slots"] is None else f"{peer['free_slots']}/{peer['slots']}",
            ", ".join(
                f"{device['name']} {size(device['free_memory_bytes'])} of {size(device['memory_bytes'])} free"
                for device in peer["devices"]
            ),
            _copy(peer),
            _offer(peer),
        )
        for peer in documents
    ]
    output.table(
        ("NAME", "ID", "ROLE", "LEADS", "STATE", "ADDRESS", "FREE", "DEVICES", "COPY", "OFFERS"), rows, "no members"
    )


def _copy(peer: Document) -> str:
    """Whether it has a copy of what the leader has recorded, and how far it is where it does not yet."""
    copy = peer.get("copy")
    if copy is None:
        return "leads" if peer["leader"] else ""
    if copy["counts"]:
        return "yes"
    return f"catching up: {copy['share']:.0%}, {copy['records']:,} of {copy['of']:,} records"


def _offer(peer: Document) -> str:
    """That it bids, or why it does not."""
    if peer["bid"] is None:
        return peer["reason"] or "nothing"
    return peer["reason"] or "work"


def jobs(output: Output, documents: list[Document]) -> None:
    rows = [
        (job["id"], job["name"], job["kind"], job["state"], _progress(job["tasks"]), job["tasks"]["failed"], _best(job))
        for job in documents
    ]
    output.table(("JOB", "NAME", "KIND", "STATE", "ENDED", "FAILED", "BEST"), rows, "no jobs")


def job(output: Output, document: Document) -> None:
    output.fields(
        [
            ("job", document["id"]),
            ("name", document["name"]),
            ("kind", document["kind"]),
            ("state", document["state"]),
            ("tasks", counts(document["tasks"])),
            ("best", _best(document)),
            ("with", pairs(document["best"]["params"]) if document["best"] else ""),
        ]
    )


def counts(tasks: Document) -> str:
    """``3 succeeded, 1 failed``."""
    return ", ".join(f"{count} {state}" for state, count in tasks.items() if count) or "none"


def ended(tasks: Document) -> int:
    return int(tasks["succeeded"] + tasks["failed"] + tasks["cancelled"])


def _progress(tasks: Document) -> str:
    return f"{ended(tasks)}/{sum(tasks.values())}"


def _best(document: Document) -> str:
    best = document["best"]
    return f"{best['metric']['name']}={shown(best['metric']['value'])} ({best['task']})" if best else ""


def tasks(output: Output, documents: list[Document]) -> None:
    rows = [
        (
            task["id"],
            task["state"],
            task["priority"],
            _node(task["attempts"][-1]) if task["attempts"] else "",
            len(task["attempts"]),
            pairs(task["params"]),
            pairs(task["metrics"]),
            _first_line(task["error"] or task["reason"]),
        )
        for task in documents
    ]
    output.table(("TASK", "STATE", "PRIO", "NODE", "TRIES", "PARAMS", "METRICS", "WHY"), rows, "no tasks")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n", 1)[0]


def _node(attempt: Document) -> str:
    return str(attempt.get("node_name") or attempt["node"])


def task(output: Output, document: Document) -> None:
    output.fields(
        [
            ("task", document["id"]),
            ("job", document["job"]),
            ("state", document["state"]),
            ("reason", document["reason"]),
            ("priority", document["priority"]),
            ("params", pairs(document["params"])),
            ("metrics", pairs(document["metrics"])),
            ("result", document["result_digest"]),
        ]
    )
    if document["error"]:
        output.line("error")
        for line in document["error"].rstrip().split("\n"):
            output.line("  " + "".join(c if c.isprintable() or c == "\t" else " " for c in line))
    if document["attempts"]:
        output.line()
        columns = ("ATTEMPT", "NODE", "STATE", "FROM", "STARTED", "FINISHED", "REASON")
        output.table(
            columns,
            [
                (
                    a["id"], _node(a), a["state"], _step(a["resumed_from"]), a["started_at"], a["finished_at"],
                    _first_line(a["reason"]),
                )
                for a in document["attempts"]
            ],
        )  # fmt: skip
    if document["checkpoints"]:
        output.line()
        output.table(
            ("CHECKPOINT", "STEP", "SIZE", "METRICS", "SAVED", "BY"),
            [
                (c["blob"], c["step"], size(c["size"]), pairs(c["metrics"]), c["saved_at"], c["attempt"])
                for c in document["checkpoints"]
            ],
        )


def _step(checkpoint: Document | None) -> str:
    """Which one an attempt went on from."""
    return "" if checkpoint is None else f"step {checkpoint['step']}" if "step" in checkpoint else checkpoint["blob"]


def explain(output: Output, document: Document) -> None:
    output.line(f"{document['task']}: {document['choice'] or 'waits'}; {document['why']}")
    if document["nodes"]:
        output.line()
        output.table(
            ("NODE", "FEASIBLE", "WHY"),
            [(n.get("name") or n["id"], n["feasible"], n["why"]) for n in document["nodes"]],
        )


def best(output: Output, document: Document) -> None:
    output.fields(
        [
            (document["metric"]["name"], document["metric"]["value"]),
            ("task", document["task"]),
            *((f"  {name}", literal(value)) for name, value in flat(document["params"]).items()),
            ("checkpoint", (document["checkpoint"] or {}).get("blob")),
        ]
    )


def results(output: Output, documents: list[Document]) -> None:
    columns, rows = _results(documents)
    texts = [[literal(cell) if isinstance(cell, bool) else cell for cell in row] for row in rows]
    output.table([column.upper() for column in columns], texts, "no tasks")


def results_csv(output: Output, documents: list[Document]) -> None:
    columns, rows = _results(documents)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv(cell) for cell in row] for row in rows)
    output.stdout.write(text.getvalue())
    output.stdout.flush()


def _csv(cell: object) -> object:
    """Numbers in full; what CSV does not have as JSON."""
    if isinstance(cell, bool | dict | list):
        return json.dumps(cell, ensure_ascii=False)
    return cell


def _results(documents: list[Document]) -> tuple[list[str], list[list[object]]]:
    """One row per task; a metric that is named as a parameter gets the prefix ``metric.``."""
    lines = [result_row(task) for task in documents]
    params = [flat(line["params"] or {}) for line in lines]
    metrics = [flat(line["metrics"] or {}) for line in lines]
    param_names = list(dict.fromkeys(name for values in params for name in values))
    metric_names = list(dict.fromkeys(name for values in metrics for name in values))
    fixed = ["task", "state", "node"]
    taken = {*fixed, *param_names}
    columns = [
        *fixed,
        *(f"param.{name}" if name in fixed else name for name in param_names),
        *(f"metric.{name}" if name in taken else name for name in metric_names),
    ]
    rows = [
        [line[name] for name in fixed]
        + [values.get(name) for name in param_names]
        + [measured.get(name) for name in metric_names]
        for line, values, measured in zip(lines, params, metrics, strict=True)
    ]
    return columns, rows


def status(output: Output, document: Document) -> None:
    """Jobs are the leader's to know: what another node's journal has of them is shown as just that."""
    known = {"jobs", "tasks"} if not document.get("leading", True) else set()
    shown_as = {**document, "tasks": counts(document["tasks"])} if "tasks" in document else dict(document)
    if "refused_messages" in document:
        shown_as["refused_messages"] = ", ".join(f"{n} of {node}" for node, n in document["refused_messages"].items())
    output.fields(
        [(name.replace("_", " ") + (" in own journal" if name in known else ""), v) for name, v in shown_as.items()]
    )
