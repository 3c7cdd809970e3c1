"""Plain grpcio against a gateway: reflection, health, a session, its events and their account, a write, resuming, a
rich error, a deadline, a limit. Knows the .proto files and nothing of ours; the stubs are made of them beside it.

    plain.py --endpoint HOST:PORT --key-file FILE [--ca FILE]
"""

import argparse
import itertools
import queue
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tidegate.v1 import commands_pb2, events_pb2, gateway_pb2, gateway_pb2_grpc, value_pb2

# Seconds; on a busy machine things take their time.
PATIENCE = 60
EVENTS = 1_000


class Account:
    """Each sequence of an epoch once, in order: delivered, filtered, conflated or told as a gap."""

    def __init__(self, opened):
        self.epoch, self.position = opened.epoch, opened.after
        self.token = opened.resume_token
        self.delivered = self.withheld = self.gapped = 0

    def take(self, message):
        """The events of a message, after its range was checked."""
        kind = message.WhichOneof("message")
        if kind not in ("batch", "gap"):
            return []
        part = getattr(message, kind)
        begins = getattr(part, "from")
        assert part.epoch == self.epoch, "another epoch"
        assert begins == self.position + 1, f"{begins} does not join {self.position}"
        covered = part.to - begins + 1
        self.position = part.to
        if kind == "gap":
            self.gapped += covered
            return []
        assert len(part.events) + part.filtered + part.conflated == covered, "a batch that does not add up"
        last = begins - 1
        for event in part.events:
            assert last < event.sequence <= part.to, "out of order"
            last = event.sequence
        self.delivered += len(part.events)
        self.withheld += part.filtered + part.conflated
        return part.events


class Stream:
    """An open event stream; its first message says where it begins."""

    def __init__(self, gateway, headers, request):
        self.call = gateway.StreamEvents(request, metadata=headers, timeout=PATIENCE)
        first = next(self.call)
        assert first.WhichOneof("message") == "opened", first
        self.account = Account(first.opened)

    def events(self):
        for message in self.call:
            yield from self.account.take(message)


def refused(call):
    """The status of a call that must fail, and its google.rpc details by type."""
    try:
        call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        details = {}
        for any_ in status.details if status else []:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.QuotaFailure,
                         error_details_pb2.BadRequest):
                if any_.Is(kind.DESCRIPTOR):
                    details[kind.DESCRIPTOR.name] = kind()
                    any_.Unpack(details[kind.DESCRIPTOR.name])
        return error.code(), details
    raise AssertionError("this should have been refused")


def services(channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=PATIENCE)
    return {service.name for service in next(answers).list_services_response.service}


def check(channel, key):
    headers = [("authorization", f"Bearer {key}")]
    names = services(channel)
    assert {"tidegate.v1.Gateway", "grpc.health.v1.Health"} <= names, names
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "tidegate.v1.Gateway"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, (name, answer)
    code, _ = refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=PATIENCE))
    assert code == grpc.StatusCode.NOT_FOUND, code

    gateway = gateway_pb2_grpc.GatewayStub(channel)
    opening = gateway_pb2.OpenSessionRequest(client_session_name="plain", client_kind="python", client_version="1.0")
    code, details = refused(lambda: gateway.OpenSession(opening, timeout=PATIENCE))
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAUTHENTICATED, "auth.missing"), details
    session = gateway.OpenSession(opening, metadata=headers, timeout=PATIENCE).session_id

    def invoke(timeout=PATIENCE, **method):
        request = gateway_pb2.InvokeRequest(session_id=session, command=commands_pb2.Command(**method))
        return gateway.Invoke(request, metadata=headers, timeout=timeout).result

    server = invoke(register=commands_pb2.Register(client_name="plain")).server_handle
    tags = ["Area1.Pump1.Sine", "Area1.Setpoint.Speed"]
    subscribe = commands_pb2.SubscribeBulk(server_handle=server, definitions=tags)
    items = [result.item_handle for result in invoke(subscribe_bulk=subscribe).bulk.results]
    assert len(items) == 2 and all(items), items

    oldest = events_pb2.StreamEventsRequest.Oldest()
    wanted = events_pb2.StreamEventsRequest(session_id=session, oldest=oldest, reader_name="plain")
    stream = Stream(gateway, headers, wanted)
    seen = list(itertools.islice(stream.events(), EVENTS // 2))
    first = stream.account
    stream.call.cancel()

    # Where the first one was, on another stream; what its transport still held comes again.
    resume = events_pb2.StreamEventsRequest.ResumeByToken(token=first.token, after=first.position)
    wanted = events_pb2.StreamEventsRequest(session_id=session, resume_by_token=resume, reader_name="plain")
    stream = Stream(gateway, headers, wanted)
    assert (stream.account.epoch, stream.account.position) == (first.epoch, first.position), "it goes on elsewhere"
    value = value_pb2.Value(double=12.5)
    write = commands_pb2.Write(server_handle=server, item_handle=items[1], value=value)
    invoke(write=write)
    written = False
    for event in stream.events():
        seen.append(event)
        change = event.data_change if event.WhichOneof("body") == "data_change" else None
        written |= change is not None and event.item_handle == items[1] and change.value.double == 12.5
        if written and len(seen) >= EVENTS:
            break
    second = stream.account
    stream.call.cancel()
    produced = second.position
    told = [sum(getattr(account, part) for account in (first, second)) for part in ("delivered", "withheld", "gapped")]
    assert sum(told) == produced, (told, produced)

    gone = commands_pb2.Advise(server_handle=server, item_handle=999_999)
    code, details = refused(lambda: invoke(advise=gone))
    assert details["ErrorInfo"].domain == "tidegate", details
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "mx.call_failed"), details
    late = events_pb2.StreamEventsRequest(session_id=session, max_linger_ms=5_000)
    code, details = refused(lambda: next(gateway.StreamEvents(late, metadata=headers, timeout=PATIENCE)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    assert details["BadRequest"].field_violations[0].field == "max_linger_ms", details
    # A read that waits for a first value, and a caller that does not.
    slow = gateway_pb2.OpenSessionRequest(client_session_name="slow", requested_backend="slow")
    fast, session = session, gateway.OpenSession(slow, metadata=headers, timeout=PATIENCE).session_id
    patient = invoke(register=commands_pb2.Register(client_name="plain")).server_handle
    read = commands_pb2.ReadBulk(server_handle=patient, definitions=tags[:1], timeout_ms=30_000)
    code, _ = refused(lambda: invoke(timeout=0.3, read_bulk=read))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
    gateway.CloseSession(gateway_pb2.CloseSessionRequest(session_id=session), metadata=headers, timeout=PATIENCE)
    session = fast

    # One stream more than the session takes.
    many = queue.SimpleQueue()
    live = events_pb2.StreamEventsRequest(session_id=session, live=events_pb2.StreamEventsRequest.Live())
    for _ in range(64):
        try:
            many.put(Stream(gateway, headers, live))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            break
    else:
        raise AssertionError("no bound on readers")
    while not many.empty():
        many.get().call.cancel()
    head = gateway.CloseSession(gateway_pb2.CloseSessionRequest(session_id=session), metadata=headers,
                                timeout=PATIENCE).head
    assert head >= produced, (head, produced)
    return len(names), told


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--endpoint", required=True)
    arguments.add_argument("--key-file", required=True)
    arguments.add_argument("--ca")
    arguments = arguments.parse_args()
    with open(arguments.key_file, encoding="ascii") as file:
        key = file.read().strip()
    if arguments.ca:
        with open(arguments.ca, "rb") as file:
            channel = grpc.secure_channel(arguments.endpoint, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(arguments.endpoint)
    with channel:
        names, (delivered, withheld, gapped) = check(channel, key)
    print(f"grpcio {grpc.__version__}{' over TLS' if arguments.ca else ''}: {names} services; "
          f"delivered {delivered} + withheld {withheld} + gapped {gapped} = produced {delivered + withheld + gapped}")


if __name__ == "__main__":
    sys.exit(main())
