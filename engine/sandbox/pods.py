"""The broker's side of templates: which there are, and what happens to their pods when something ends.

A template is declared when its worker's init is over; from then on sandboxes are made from it by its key, as from a zygote. It ends when it
is dropped, when its worker dies, or with its whole sandbox. Copies that are made already go on; their pods hang on the init of the
template's sandbox, which therefore stays until the last of them is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.sandbox import packets
from engine.sandbox.record import Holder
from engine.sandbox.sources import Template


class Fail(Protocol):
    """Tell that a sandbox could not be made."""

    def __call__(self, holder: Holder, step: str, reason: str) -> None: ...


class Kill(Protocol):
    """End a holder in any state."""

    def __call__(self, holder_id: int) -> None: ...


class OnHolder(Protocol):
    """Do something with a holder."""

    def __call__(self, holder: Holder) -> None: ...


class Tell(Protocol):
    """Sends an event to the supervisor."""

    def __call__(self, message: list[object], fds: list[int] | None = None) -> None: ...


class Pods:
    """Templates by key. ``holders`` is the broker's table, which belongs to somebody else."""

    def __init__(
        self, holders: Mapping[int, Holder], tell: Tell, *, fail: Fail, kill: Kill, announce: OnHolder, finish: OnHolder
    ) -> None:
        self._holders = holders
        self._tell = tell
        self._fail = fail
        self._kill = kill
        self._announce = announce
        self._finish = finish
        self.templates: dict[str, Template] = {}

    def of_holder(self, holder: Holder) -> Template | None:
        """The template that lives in this sandbox."""
        return next((t for t in self.templates.values() if t.holder_id == holder.id), None)

    def of_copy(self, home: Holder, inner_pid: int) -> Holder | None:
        """The pod below this template's sandbox whose copy has this process number inside."""
        return next((pod for pod in self._below(home) if pod.inner_pid == inner_pid), None)

    def _below(self, home: Holder) -> list[Holder]:
        return [h for h in self._holders.values() if isinstance(h.zygote, Template) and h.zygote.holder_id == home.id]

    def declare(self, key: str, holder: Holder | None) -> None:
        """Its worker waits to be copied. The supervisor is told whether it can be."""
        if holder is None or holder.dying or holder.control is None or holder.orders is None or not holder.worker_alive:
            self._tell(["zygote_failed", key, "the template is gone"])
            return
        self.templates[key] = Template(key, holder.id, holder.control.send, holder.orders, holder.network)
        self._tell(["zygote_ready", key, holder.worker_pid])

    def copy(self, pod: Holder, packet: packets.Packet) -> None:
        """A pod stands and has sent its namespaces: have the template fork into it."""
        template = pod.zygote
        message: list[object] = ["copy", packet.args[0], "/var/task"]
        fds = [*packet.fds, *pod.lent]
        pod.init_pid = packet.pid
        # Not always the one that was asked for.
        pod.inner_pid = int(packet.args[1])
        if not isinstance(template, Template) or not template.order(lambda orders: packets.send(orders, message, fds)):
            self._fail(pod, "order a copy", "the template does not take orders any more")
            self._kill(pod.id)
            return
        pod.take_back()
        pod.worker_pid = packet.pid
        pod.worker_alive = True
        self._announce(pod)

    def drop(self, key: str) -> None:
        """End a template; its copies go on."""
        template = self.templates.get(key)
        home = self._holders.get(template.holder_id) if template is not None else None
        if template is not None and home is not None and home.control is not None:
            home.control.send(["kill"])
            self.ended(template, "dropped")

    def ended(self, template: Template, reason: str) -> None:
        """It copies no more. Pods that wait for their copy end."""
        if self.templates.pop(template.key, None) is None:
            return
        template.end(reason)
        for pod in [h for h in self._holders.values() if h.zygote is template and not h.announced]:
            if not pod.dying:
                self._fail(pod, "template", reason)
            self._kill(pod.id)
        self._tell(["zygote_failed", template.key, reason])
        self._end_if_empty(template)

    def _end_if_empty(self, template: Template) -> None:
        if not template.ready and not any(h.zygote is template for h in self._holders.values()):
            self._kill(template.holder_id)

    def finished(self, holder: Holder) -> None:
        """A sandbox is gone. With a template's its pods are; with the last pod of a template that ended its sandbox has nothing to do."""
        if isinstance(holder.zygote, Template):
            self._end_if_empty(holder.zygote)
        if not holder.is_template:
            return
        template = self.of_holder(holder)
        for pod in self._below(holder):
            self._finish(pod)
        if template is not None:
            self.ended(template, "its sandbox ended")
        elif holder.orders is not None:
            holder.orders.close()
