"""The simulated replicas: how requests wait, are taken in, and are answered token by token.

Model of one replica (the way vLLM's scheduler works with chunked prefill):

* Time goes in steps. A step gives one token to each of the n running sequences and takes
  step_base_s + step_per_sequence_s * n seconds.
* Waiting prompts go first, in order of arrival, one prompt at a time. A prompt of P tokens is
  taken in over c = ceil(P / prefill_chunk_tokens) steps, which together take
  P / prefill_tokens_per_s on top of the c decode steps (nothing on top where none runs). So
  prefill and decode share the replica's time: what one takes the other lacks, and prefill is
  preferred, as in vLLM. The first token comes with the end of the last chunk.
* A replica holds max_batch requests, running and waiting together: Serve's
  `max_ongoing_requests`. Others wait in one queue in front of all replicas, as they do live: first
  who can still be in time, the oldest first, and then who is late (`line`).
* A new request goes to a replica that takes in no prompt at the moment, of these to the one
  with the fewest requests; where all do, to the one with the fewest prompt tokens waiting.
  Serve's own router compares the request counts of two replicas at random, which lets a prompt
  wait behind a long one while a neighbour only decodes. All policies get the same dispatch: the
  simulator compares how many replicas there are, not who is given a request.

Nothing is sampled and nothing is averaged: between two events of a replica (a prompt's end, a
sequence's end, an arrival) all steps are alike, so whole runs of steps are jumped over. The
cost is a few heap operations a request, whatever the number of steps.

Times are float seconds, since nothing here is an account.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from cluster.cost import Market, ServiceRates
from cluster.simulation.line import Line
from cluster.simulation.trace import Trace
from models.workforce.turns import Target, Ticket

_IDLE, _DECODE, _PREFILL = 0, 1, 2
NEVER = math.inf


class Replica:
    """One replica's state. Only the engine writes it."""

    __slots__ = (
        "accepting",
        "batch",
        "ends",
        "level",
        "market",
        "mode",
        "next_s",
        "number",
        "ongoing",
        "run_start_s",
        "running",
        "step",
        "steps",
        "waiting",
        "waiting_tokens",
    )

    def __init__(self, number: int, market: Market) -> None:
        self.number = number
        self.market = market
        self.accepting = True
        self.ongoing = 0  # requests held, running and waiting
        self.batch = 0  # sequences decoding
        self.step = 0  # decode steps done since the start
        self.mode = _IDLE
        self.next_s = NEVER  # when the present run of steps ends
        self.run_start_s = 0.0
        self.steps = 0  # decode steps in the present run
        self.ends: list[tuple[int, int]] = []  # heap of (step at which it ends, request)
        self.waiting: deque[int] = deque()
        self.waiting_tokens = 0  # prompt tokens not yet taken in
        self.level = -1  # the engine's level that lists it, -1 for none


@dataclass(slots=True)
class Counters:
    """Running totals, for the policies to look at. Tokens and requests."""

    arrived: int = 0
    arrived_prompt_tokens: int = 0
    answered: int = 0
    generated_tokens: int = 0
    first_tokens: int = 0
    late: int = 0
    shed: int = 0
    spilled: int = 0


class Engine:
    """All replicas of one model, replaying one trace. `advance(t)` runs everything up to t.

    `admit(request, now_s)` may refuse a request that finds no free place: it returns "wait",
    "shed" or "spill". Who has waited for `longest_s` is served first. Results: `first_s` and
    `end_s` by request, NEVER where there was none.
    """

    def __init__(
        self,
        trace: Trace,
        rates: ServiceRates,
        ttft_s: float,
        admit: Callable[[int, float], str] | None = None,
        longest_s: float = NEVER,
    ) -> None:
        self.trace = trace
        self.rates = rates
        self.ttft_s = ttft_s
        self.admit = admit
        self.counters = Counters()
        self.first_s = [NEVER] * len(trace)
        self.end_s = [NEVER] * len(trace)
        self.queued_prompt_tokens = 0
        self.ongoing = 0  # held by replicas
        self.replicas: dict[int, Replica] = {}
        self._arrived = 0
        self._events: list[tuple[float, int]] = []
        self._levels: list[dict[int, Replica]] = [{} for _ in range(rates.max_batch)]
        self._occupied = 0  # bit n is set where _levels[n] holds a replica
        self._step_s = [rates.step_s(n) for n in range(rates.max_batch + 1)]
        self._target = Target(ttft_s, longest_s, 1 / rates.prefill_tokens_per_s, self._step_s[-1])
        self.queue = Line(trace, self._target)
        # What is left of a request that lost its replica: (prompt, generated) tokens.
        self._left: dict[int, tuple[int, int]] = {}

    # -- the fleet ---------------------------------------------------------------------------

    def add(self, number: int, market: Market, now_s: float) -> None:
        """A new replica serves from now on, and takes what waits."""
        replica = Replica(number, market)
        self.replicas[number] = replica
        self._enter(replica)
        while self.queue and replica.ongoing < self.rates.max_batch:
            self._give(replica, self._take(now_s), now_s)

    def drain(self, number: int) -> None:
        """The replica takes no more requests; it is empty once `is_empty`."""
        replica = self.replicas[number]
        if replica.accepting:
            self._leave(replica)
            replica.accepting = False

    def is_empty(self, number: int) -> bool:
        """Whether the replica holds no request."""
        return self.replicas[number].ongoing == 0

    def remove(self, number: int, now_s: float) -> None:
        """The replica is gone. What it still held starts anew elsewhere, before all others:
        tokens already given become part of the prompt."""
        replica = self.replicas[number]
        self.drain(number)
        if replica.mode == _DECODE:
            done = int((now_s - replica.run_start_s) / self._step_s[replica.batch])
            replica.step += max(0, min(done, replica.steps))
        lost = [request for _, request in sorted(replica.ends)]
        for end_step, request in replica.ends:
            prompt, generated = self._size(request)
            left = max(1, end_step - replica.step)
            self._left[request] = (prompt + generated - left, left)
        lost.extend(replica.waiting)
        self.ongoing -= replica.ongoing
        replica.next_s = NEVER
        del self.replicas[number]
        self.queue.put_back(lost)
        self.queued_prompt_tokens += sum(self._size(request)[0] for request in lost)
        self._place_waiting(now_s)

    def least_loaded(self, market: Market) -> int | None:
        """The accepting replica of that market with the fewest requests, or None."""
        found = [r for r in self.replicas.values() if r.accepting and r.market == market]
        return min(found, key=lambda r: (r.ongoing, -r.number)).number if found else None

    # -- time --------------------------------------------------------------------------------

    def advance(self, until_s: float) -> None:
        """Run all arrivals and steps up to and including `until_s`."""
        events, arrivals = self._events, self.trace.arrival_s
        total, index = len(arrivals), self._arrived
        arrival = arrivals[index] if index < total else NEVER
        replicas = self.replicas
        while True:
            if events and events[0][0] <= arrival:
                if events[0][0] > until_s:
                    break
                now_s, number = heappop(events)
                replica = replicas.get(number)
                # A run that an arrival has cut short leaves its old event behind.
                if replica is not None and replica.next_s == now_s:
                    self._finish_run(replica, now_s)
            else:
                if arrival > until_s:
                    break
                self._arrive(index, arrival)
                index += 1
                self._arrived = index
                arrival = arrivals[index] if index < total else NEVER

    @property
    def done(self) -> bool:
        """Whether every request has arrived and left."""
        return self._arrived == len(self.trace) and not self.queue and self.ongoing == 0

    @property
    def next_arrival_s(self) -> float:
        """When the next request arrives; NEVER after the last."""
        index = self._arrived
        return self.trace.arrival_s[index] if index < len(self.trace) else NEVER

    def expected_wait_s(self, request: int, now_s: float) -> float:
        """Seconds until `request`, which arrives now, has a place, as far as the door can tell: 0
        where one is free, else its turn in the queue at the mean work of a request so far. Where
        it would be late, it waits for those as well who are late already."""
        if not self.queue and self._choose() is not None:
            return 0.0
        accepting = sum(1 for r in self.replicas.values() if r.accepting)
        if not accepting:
            return 0.0
        counters = self.counters
        work = self.rates.work_s(
            counters.arrived_prompt_tokens / max(1, counters.arrived),
            counters.generated_tokens / max(1, counters.answered),
        )
        in_time_s = (self.queue.early(now_s) + 1) * work / accepting
        if in_time_s <= self._target.slack_s(Ticket(prompt=self.trace.prompt_tokens[request])):
            return in_time_s
        return (len(self.queue) + 1) * work / accepting

    def prompt_s(self, request: int) -> float:
        """Seconds from a place to the first token, with no prompt before this one's. Its chunks
        share their steps with decodes, and wait for the step under way."""
        prompt, rates = self.trace.prompt_tokens[request], self.rates
        chunks = -(-prompt // rates.prefill_chunk_tokens)
        return prompt / rates.prefill_tokens_per_s + (chunks + 0.5) * self._step_s[-1]

    # -- one request -------------------------------------------------------------------------

    def _arrive(self, request: int, now_s: float) -> None:
        counters = self.counters
        counters.arrived += 1
        counters.arrived_prompt_tokens += self.trace.prompt_tokens[request]
        if self.admit is not None:
            verdict = self.admit(request, now_s)
            if verdict == "spill":
                counters.spilled += 1
                return
            if verdict == "shed":
                counters.shed += 1
                return
        # While others wait, nobody is placed out of turn.
        replica = None if self.queue else self._choose()
        if replica is None:
            self.queue.join(request)
            self.queued_prompt_tokens += self.trace.prompt_tokens[request]
        else:
            self._give(replica, request, now_s)

    def _choose(self) -> Replica | None:
        occupied = self._occupied
        if occupied:
            level = self._levels[(occupied & -occupied).bit_length() - 1]
            return next(iter(level.values()))
        best, fewest = None, NEVER
        for replica in self.replicas.values():
            if (
                replica.waiting_tokens < fewest
                and replica.accepting
                and replica.ongoing < self.rates.max_batch
            ):
                best, fewest = replica, replica.waiting_tokens
        return best

    def _take(self, now_s: float) -> int:
        request = self.queue.take(now_s)
        self.queued_prompt_tokens -= self._size(request)[0]
        return request

    def _place_waiting(self, now_s: float) -> None:
        while self.queue and (replica := self._choose()) is not None:
            self._give(replica, self._take(now_s), now_s)

    def _size(self, request: int) -> tuple[int, int]:
        left = self._left.get(request) if self._left else None
        if left is not None:
            return left
        return self.trace.prompt_tokens[request], self.trace.generated_tokens[request]

    def _hold(self, replica: Replica, request: int) -> None:
        replica.waiting.append(request)
        replica.waiting_tokens += self._size(request)[0]
        replica.ongoing += 1
        self.ongoing += 1

    def _give(self, replica: Replica, request: int, now_s: float) -> None:
        """Hand a request to a replica that accepts and has room."""
        self._leave(replica)
        self._hold(replica, request)
        if replica.mode == _IDLE:
            self._start_run(replica, now_s)
        elif replica.mode == _DECODE:
            # The prompt goes in at the next step's start: cut the run of decode steps there.
            step_s = self._step_s[replica.batch]
            steps = max(0, math.ceil((now_s - replica.run_start_s) / step_s))
            if steps < replica.steps:
                replica.steps = steps
                replica.next_s = max(now_s, replica.run_start_s + steps * step_s)
                heappush(self._events, (replica.next_s, replica.number))

    # -- one replica's steps -----------------------------------------------------------------

    def _start_run(self, replica: Replica, now_s: float) -> None:
        """Plan the steps up to the next event, from a step's start."""
        if replica.waiting:
            prompt = self._size(replica.waiting[0])[0]
            chunks = -(-prompt // self.rates.prefill_chunk_tokens)
            took_s = prompt / self.rates.prefill_tokens_per_s
            if replica.batch:
                took_s += chunks * self._step_s[replica.batch]
            replica.mode, replica.steps = _PREFILL, chunks
        elif replica.batch:
            replica.steps = replica.ends[0][0] - replica.step
            took_s = replica.steps * self._step_s[replica.batch]
            replica.mode, replica.run_start_s = _DECODE, now_s
            self._enter(replica)
        else:
            replica.mode, replica.next_s = _IDLE, NEVER
            self._enter(replica)
            return
        replica.next_s = now_s + took_s
        heappush(self._events, (replica.next_s, replica.number))

    def _finish_run(self, replica: Replica, now_s: float) -> None:
        self._leave(replica)
        replica.step += replica.steps
        step, ends = replica.step, replica.ends
        finished = 0
        if replica.mode == _PREFILL:
            request = replica.waiting.popleft()
            prompt, generated = self._size(request)
            replica.waiting_tokens -= prompt
            if self.first_s[request] == NEVER:
                self.first_s[request] = now_s
                self.counters.first_tokens += 1
                if now_s - self.trace.arrival_s[request] > self.ttft_s:
                    self.counters.late += 1
            # The prompt's last chunk gives the first token.
            heappush(ends, (step + generated - 1, request))
            replica.batch += 1
        while ends and ends[0][0] <= step:
            request = heappop(ends)[1]
            self.end_s[request] = now_s
            self.counters.answered += 1
            self.counters.generated_tokens += self.trace.generated_tokens[request]
            finished += 1
        if finished:
            self._release(replica, finished, now_s)
        self._start_run(replica, now_s)

    def _release(self, replica: Replica, finished: int, now_s: float) -> None:
        """Free `finished` places, and fill them from the queue. The caller starts the run."""
        replica.batch -= finished
        replica.ongoing -= finished
        self.ongoing -= finished
        if replica.accepting:
            while self.queue and replica.ongoing < self.rates.max_batch:
                self._hold(replica, self._take(now_s))

    # -- replicas that take in no prompt, by how many requests they hold ----------------------

    def _enter(self, replica: Replica) -> None:
        count = replica.ongoing
        if replica.accepting and count < self.rates.max_batch:
            replica.level = count
            self._levels[count][replica.number] = replica
            self._occupied |= 1 << count

    def _leave(self, replica: Replica) -> None:
        count = replica.level
        if count >= 0:
            replica.level = -1
            level = self._levels[count]
            del level[replica.number]
            if not level:
                self._occupied &= ~(1 << count)
