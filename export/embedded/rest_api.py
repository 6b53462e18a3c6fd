"""What each REST call does: from a parsed URL and a body to the JSON that answers it. No HTTP."""

import json
import zlib

from google.protobuf import json_format

from . import examples, rest_contract
from .models import ModelManager
from .rest_contract import Route
from .status import Code, ServingError, invalid
from .types import Run

_MOST_GZIP_MEMBERS = 10_000  # a tool writes one for 64 KiB or more; millions of empty ones would be work for nothing
_GZIP_SLICE = 2**16  # bytes: what follows a member is copied with it


class RestApi:
    """Answers calls, each in the thread that asks.

    Args:
        manager: of the models.
        run: how a checked request runs: alone or in a batch.
        max_instances: rows of a request. Departs: TensorFlow Serving has no such limit; a thousand tiny PNGs would be a
            gigabyte of activations each.
        max_body_bytes: of a body, also of a compressed one when it is unpacked.
    """

    def __init__(self, manager: ModelManager, run: Run, max_instances: int, max_body_bytes: int):
        self._manager, self._run = manager, run
        self._max_instances, self._max_body_bytes = max_instances, max_body_bytes

    def answer(self, route: Route, body: bytes, gzipped: bool, deadline: float) -> bytes:
        """The JSON that answers a call.

        Args:
            route: what is asked for.
            body: of the request, empty for a GET.
            gzipped: whether the body is compressed.
            deadline: as `time.monotonic`; nothing runs beyond it.

        Raises:
            ServingError: with the code and the message of the answer.
        """
        if route.verb == "status":
            # A label is not looked at, as in TensorFlow Serving.
            return self._status(route)
        if route.verb == "metadata":
            return self._metadata(route)
        document = rest_contract.parse_json(unpack(body, self._max_body_bytes) if gzipped else body)
        name = rest_contract.signature_name(document)
        if route.verb == "predict":
            return self._predict(route, document, name, deadline)
        return self._examples(route, document, name, deadline)

    def _predict(self, route, document, name, deadline):
        with self._manager.acquire(route.model, route.version, route.label) as servable:
            if name not in servable.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            specs = servable.signatures[name].inputs
            if not specs:
                raise invalid(f"Failed to get input map for signature: {name}")
            self._check_rows(document)
            tensors, row_format = rest_contract.read_tensors(document, specs)
            return rest_contract.write_prediction(self._run(servable, name, tensors, deadline), row_format)

    def _examples(self, route, document, name, deadline):
        batch = examples.read_examples(document)
        if len(batch) > self._max_instances:
            raise self._too_many(len(batch))
        evaluate = examples.classify if route.verb == "classify" else examples.regress
        with self._manager.acquire(route.model, route.version, route.label) as servable:
            results = evaluate(servable, name, batch, lambda inputs: self._run(servable, name, inputs, deadline))
        return rest_contract.write_results(results)

    def _status(self, route):
        versions = [
            {
                "version": str(status.version),
                "state": status.state,
                "status": {"error_code": status.code.name, "error_message": status.message},
            }
            for status in self._manager.statuses(route.model, route.version)
        ]
        return json.dumps({"model_version_status": versions}, indent=1).encode()

    def _metadata(self, route):
        with self._manager.acquire(route.model, route.version, route.label) as servable:
            signatures = {
                name: json_format.MessageToDict(
                    signature.definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                for name, signature in servable.signatures.items()
            }
            spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
        answer = {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}
        return json.dumps(answer, indent=1).encode()

    def _check_rows(self, document):
        # Before the values are looked at, which takes time by their number.
        value = document.get("instances", document.get("inputs"))
        for column in value.values() if isinstance(value, dict) else [value]:
            if isinstance(column, list) and len(column) > self._max_instances:
                raise self._too_many(len(column))

    def _too_many(self, count):
        return invalid(
            f"The request has {count} rows; this server takes {self._max_instances} at a time (--max_instances)"
        )


def unpack(body: bytes, max_bytes: int) -> bytes:
    """A gzip body of one or several members, unpacked no further than allowed.

    Raises:
        ServingError: not gzip, cut off, followed by something else, or too large.
    """
    contents, size, members = [], 0, 1
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    for start in range(0, len(body), _GZIP_SLICE):
        rest = body[start : start + _GZIP_SLICE]
        while rest:
            if unpacker.eof:
                members += 1
                if members > _MOST_GZIP_MEMBERS:
                    raise invalid(f"The gzip body has more than {_MOST_GZIP_MEMBERS} members; pack it as one")
                unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            try:
                contents.append(unpacker.decompress(rest, max_bytes + 1 - size))
            except zlib.error as error:
                if members > 1:
                    raise invalid(f"What follows member {members - 1} of the gzip body is not gzip: {error}") from None
                raise invalid(f"The body is announced as gzip and is not: {error}") from None
            size += len(contents[-1])
            if size > max_bytes:
                raise ServingError(Code.INVALID_ARGUMENT, f"The body unpacks to more than {max_bytes} bytes")
            rest = unpacker.unused_data
    if not unpacker.eof:
        raise invalid("The gzip body is cut off")
    return b"".join(contents)
