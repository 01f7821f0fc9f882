"""The tables. Money is nano-dollars, time is microseconds since the epoch, both whole numbers.

A change here needs a migration in `serve/store/migrations/versions`; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: What was spent, and what is set aside, by account (`project:default`, `tier:flagship`, ...).
accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("settled", sa.BigInteger, nullable=False, server_default="0"),
    #: The day and the month (UTC, as 20261122 and 202611) that the two sums below belong to.
    sa.Column("day", sa.Integer, nullable=False, server_default="0"),
    sa.Column("settled_day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("month", sa.Integer, nullable=False, server_default="0"),
    sa.Column("settled_month", sa.BigInteger, nullable=False, server_default="0"),
    #: Leases and unknown calls. Never part of `settled`.
    sa.Column("held", sa.BigInteger, nullable=False, server_default="0"),
    #: Why nothing may be spent any more, if so.
    sa.Column("frozen", sa.Text),
)

#: Budget that a process holds, to reserve from without asking again.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False, index=True),
    sa.Column("accounts", sa.JSON, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)

#: Every call that was settled.
entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("session", sa.Text),
    sa.Column("job", sa.Text),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("input", sa.BigInteger, nullable=False),
    sa.Column("output", sa.BigInteger, nullable=False),
    sa.Column("cached", sa.BigInteger, nullable=False),
    sa.Column("cache_written", sa.BigInteger, nullable=False),
    sa.Column("reasoning", sa.BigInteger, nullable=False),
    #: Null where the model has no price.
    sa.Column("nano_usd", sa.BigInteger),
    #: `exact`, or `estimated` where the call's end, and so its bill, is not known.
    sa.Column("basis", sa.Text, nullable=False),
    sa.Index(None, "project", "at"),
    sa.Index(None, "at"),
    sa.Index(None, "request"),
)

#: Files that were uploaded, or that a batch wrote. A row stands here once the file is whole.
files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, index=True),
    sa.Index(None, "project", "at"),
)

#: Their content, in pieces of one size.
file_parts = sa.Table(
    "file_parts",
    metadata,
    sa.Column("file", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    #: When it was written, so that what a broken upload left can be found.
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

#: Batches of requests, each worked through by one runner at a time.
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    #: Why it ended early, if so.
    sa.Column("why", sa.Text),
    #: What was asked for (`serve.jobs.batch.Spec`).
    sa.Column("spec", sa.JSON, nullable=False),
    #: Whoever works on it now. A runner that does not find itself here stops.
    sa.Column("runner", sa.Text),
    sa.Column("seen_at", sa.BigInteger),
    #: The name of its job in Ray.
    sa.Column("job", sa.Text),
    #: When it entered each state.
    sa.Column("times", sa.JSON, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("running", sa.BigInteger, nullable=False, server_default="0"),
    #: What this batch itself paid: an answer that was kept costs nothing.
    sa.Column("nano_usd", sa.BigInteger, nullable=False, server_default="0"),
    #: Rows that another one's answer served.
    sa.Column("reused", sa.BigInteger, nullable=False, server_default="0"),
    #: Tokens by model, as {model: [input, output]}.
    sa.Column("tokens", sa.JSON, nullable=False),
    #: Lines of the input that could not be read, as [[line, message]]: the first ones.
    sa.Column("errors", sa.JSON, nullable=False),
    sa.Column("output_file", sa.Text),
    sa.Column("error_file", sa.Text),
    sa.Index(None, "project", "at"),
)

#: One row a line of a batch's input, by its number in the file.
batch_rows = sa.Table(
    "batch_rows",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("line", sa.BigInteger, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    #: Where it lies in the input, in bytes.
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    #: The content key of its answer; null as long as it has none.
    sa.Column("answer", sa.Text),
    #: Whether the answer was there before.
    sa.Column("reused", sa.Boolean, nullable=False, server_default=sa.false()),
    #: Its failure, as [code, message].
    sa.Column("error", sa.JSON),
    sa.Index(None, "batch", "id"),
    sa.Index(None, "batch", "state", "line"),
)

#: Answers of batches by the content of what was asked, so that nobody pays twice.
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    #: A completion as JSON text (`serve.jobs.answers`).
    sa.Column("completion", sa.Text, nullable=False),
)

#: How answers of `fusion/auto` came about, for feedback on them.
routes = sa.Table(
    "routes",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),
    sa.Column("data", sa.JSON, nullable=False),
    #: The caller's word on it, 0 to 1.
    sa.Column("score", sa.Float),
)

#: What the router learns from: a log that each of its replicas reads.
lessons = sa.Table(
    "lessons",
    metadata,
    sa.Column(
        "number",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

#: What the lessons up to a number came to: one row.
router_state = sa.Table(
    "router_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    #: Changes when the state is put there by hand.
    sa.Column("era", sa.BigInteger, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("data", sa.Text),
)

#: Calls that left and whose process died before their end: held until a person resolves them.
unknowns = sa.Table(
    "unknowns",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("accounts", sa.JSON, nullable=False),
    #: What the entry would have been, as JSON; null for the rest of a lease.
    sa.Column("entry", sa.JSON),
    sa.Column("why", sa.Text, nullable=False),
)

#: What replicas of hosted models cost by the hour, up to when they were counted.
replica_hours = sa.Table(
    "replica_hours",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("hours", sa.BigInteger, nullable=False),
    #: What calls were charged in the counted time, and what they ever were.
    sa.Column("charged", sa.BigInteger, nullable=False),
    sa.Column("ever", sa.BigInteger, nullable=False),
    #: The UTC day of `at`, in days since 1970, and what `hours` was when that day began.
    sa.Column("day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("before", sa.BigInteger, nullable=False, server_default="0"),
)

#: Every catalog that was in force. The newest is.
editions = sa.Table(
    "editions",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("catalog", sa.JSON, nullable=False),
)

#: API keys. Of the secret only a keyed hash is kept.
keys = sa.Table(
    "keys",
    metadata,
    #: Public: it is the first part of the key, and how a person names it.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    #: Null: every model.
    sa.Column("models", sa.JSON),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    #: The key that took this one's place.
    sa.Column("replaced_by", sa.Text),
)

#: What each fusion did, by the id that its answer carries.
fusions = sa.Table(
    "fusions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False, index=True),
    sa.Column("told", sa.JSON, nullable=False),
)

#: What policies count, by the policy's name and whose it is (`budget/session:ses_…`).
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

#: What calls under way hold beside a counter's value.
counter_holds = sa.Table(
    "counter_holds",
    metadata,
    #: The event's token, so that a request and the model call in it are two.
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("counter", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    #: A holder whose process died holds no longer than this.
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Index(None, "counter"),
)

#: Every verdict of every policy. Rows are added and never changed.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("call", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("session", sa.Text),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index(None, "project", "id"),
)

#: Conversations.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("archived", sa.Boolean, nullable=False),
    #: The session that it was forked from.
    sa.Column("parent", sa.Text),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Index(None, "project", "archived", "created_at", "id"),
)

#: What was said in them. Rows are added and never changed.
session_items = sa.Table(
    "session_items",
    metadata,
    sa.Column("session", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("message", sa.JSON, nullable=False),
    #: The model that wrote it, where one did.
    sa.Column("model", sa.Text),
    #: The call that it came with.
    sa.Column("turn", sa.Text, nullable=False),
    #: The whole answer, with the message of a model.
    sa.Column("answer", sa.JSON(none_as_null=True)),
    sa.Index(None, "session", "turn"),
    sa.Index(None, "session", "id"),
)

#: The oldest items of a session in short, up to and with the one at `upto`.
session_summaries = sa.Table(
    "session_summaries",
    metadata,
    sa.Column("session", sa.Text, primary_key=True),
    sa.Column("upto", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
)

#: Answers that a later request may go on from (`previous_response_id`).
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("conversation", sa.JSON, nullable=False),
    sa.Index(None, "at"),
)

#: Requests with an idempotency key, and their answers.
repeats = sa.Table(
    "repeats",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    #: Of the request: the same key with another request is a mistake.
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("held_until", sa.BigInteger, nullable=False),
    sa.Column("answer", sa.JSON(none_as_null=True)),
)

#: What persons are asked, and the request that waits for their word.
approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("session", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    #: `pending`, `approved`, `rejected` or `expired`.
    sa.Column("state", sa.Text, nullable=False),
    #: The same for requests that ask the same; one of them is pending at a time.
    sa.Column("asks", sa.Text, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    #: Policy, reason, and what is proposed, for each that asks.
    sa.Column("policies", sa.JSON, nullable=False),
    #: The request and its call, as they came.
    sa.Column("work", sa.JSON, nullable=False),
    sa.Column("decided_at", sa.BigInteger),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_from", sa.Text),
    sa.Column("note", sa.Text),
    #: Policies whose ask counts as allowed for the parked request.
    sa.Column("granted", sa.JSON),
    #: Of the parked request: `parked`, then `done` with an answer, or `failed` with an error.
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("runner", sa.Text),
    sa.Column("runs_until", sa.BigInteger),
    sa.Column("answer", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.Index(None, "project", "created_at"),
    sa.Index(None, "state", "run"),
    sa.Index(
        "uq_approvals_pending",
        "project",
        "asks",
        unique=True,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
)

#: What the webhook is still to be told.
notices = sa.Table(
    "notices",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False, index=True),
)

#: Plans, running and ended.
plans = sa.Table(
    "plans",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    #: `running`, `done`, `failed`, `cancelled`, `paused`.
    sa.Column("status", sa.Text, nullable=False),
    #: Whose run it is, and until when nobody else may go on with it.
    sa.Column("holder", sa.Text),
    sa.Column("held_until", sa.BigInteger),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("graph", sa.JSON, nullable=False),
    #: What the answer was and cost, when there is one; JSON.
    sa.Column("told", sa.JSON),
    sa.Index(None, "project", "at"),
)

#: Results of a plan's subtasks. What stands here is never paid for again.
plan_steps = sa.Table(
    "plan_steps",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("subtask", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    #: Who did it, for how much, in how long; JSON.
    sa.Column("told", sa.JSON, nullable=False),
)
