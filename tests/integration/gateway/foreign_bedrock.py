"""AWS Bedrock's Converse API, strictly: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html."""

from __future__ import annotations

import orjson
from aiohttp import web

from tests.integration.gateway import aws
from tests.integration.gateway.foreign import CITIES, Json, Wrong, demand, events, matched, pieces, told_status


async def bedrock(request: web.Request, body: Json) -> web.StreamResponse:
    model, operation = "", ""
    try:
        model, operation = aws.place(request.raw_path)
        aws.verify(request.method, request.raw_path, dict(request.headers), await request.read())
        aws.validate(operation, body | {"modelId": model})
        matched(
            [
                [(kind, part[kind].get("toolUseId", "")) for part in said["content"] for kind in part if kind != "text"]
                for said in body["messages"]
            ]
        )
        status = told_status(model)
        demand(status is None, "because", status or 400)
    except (Wrong, aws.Refused) as error:
        status = getattr(error, "status", 400)
        kind = getattr(
            error,
            "kind",
            {429: "ThrottlingException", 500: "InternalServerException"}.get(status, "ValidationException"),
        )
        return web.json_response(
            {"message": str(error)}, status=status, headers={"x-amzn-errortype": f"{kind}:http://internal.amazon.com/"}
        )
    last = body["messages"][-1]["content"]
    results = [part["toolResult"]["content"][0]["text"] for part in last if "toolResult" in part]
    blocks: list[Json] = [{"text": "; ".join(results) or "hi there"}]
    if not results and "toolConfig" in body:
        uses = [
            {"toolUse": {"toolUseId": f"tooluse_{city}", "name": "weather", "input": {"city": city}}} for city in CITIES
        ]
        blocks = [{"text": "let me see"}, *uses]
    stop = "tool_use" if "toolUse" in blocks[-1] else "end_turn"
    used = {
        "inputTokens": 7,
        "outputTokens": 5,
        "totalTokens": 15,
        "cacheReadInputTokens": 1,
        "cacheWriteInputTokens": 2,
    }
    if operation == "Converse":
        return web.json_response(
            {
                "output": {"message": {"role": "assistant", "content": blocks}},
                "stopReason": stop,
                "usage": used,
                "metrics": {"latencyMs": 1},
            }
        )
    told: list[tuple[str, Json]] = [("messageStart", {"role": "assistant"})]
    for at, block in enumerate(blocks):
        if "text" in block:
            deltas: list[Json] = [{"text": piece} for piece in pieces(block["text"])]
        else:
            use = block["toolUse"]
            told.append(
                (
                    "contentBlockStart",
                    {
                        "contentBlockIndex": at,
                        "start": {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}},
                    },
                )
            )
            deltas = [{"toolUse": {"input": piece}} for piece in pieces(orjson.dumps(use["input"]).decode())]
        told += [("contentBlockDelta", {"contentBlockIndex": at, "delta": delta}) for delta in deltas]
        told.append(("contentBlockStop", {"contentBlockIndex": at}))
    chunks = [aws.event(kind, one) for kind, one in told]
    if "fails" in model:
        chunks.append(aws.event("serviceUnavailableException", {"message": "Try your request again."}, fault=True))
    elif not model.endswith(("breaks", "ends")):
        chunks += [
            aws.event("messageStop", {"stopReason": stop}),
            aws.event("metadata", {"usage": used, "metrics": {"latencyMs": 1}}),
        ]
    return await events(request, chunks, "application/vnd.amazon.eventstream", whole="breaks" not in model)
