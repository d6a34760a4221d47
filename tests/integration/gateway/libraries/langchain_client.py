"""What LangChain's OpenAI models get from a gateway, as JSON: `python langchain_client.py BASE_URL KEY`."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.tiny_model import CALL_BIAS

SAYS = {"grammar": "root ::= [a-z]+", "ignore_eos": True}
Unit = Literal["celsius", "fahrenheit"]


@tool  # type: ignore[untyped-decorator]  # none of the development environment's
def get_current_weather(unit: Unit) -> str:
    """Get the current weather."""
    return f"21 {unit}"


class Weather(BaseModel):
    """How warm it is."""

    unit: Unit


def main(base_url: str, key: str) -> dict[str, Any]:
    def model(**more: Any) -> ChatOpenAI:
        return ChatOpenAI(model="llama-3.2-1b", base_url=base_url, api_key=key, max_retries=0, **more)

    answered = model(max_tokens=8, extra_body=SAYS).invoke("What is AI?")
    pieces = list(model(max_tokens=8, extra_body=SAYS, stream_usage=True).stream("What is AI?"))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    caller = model(max_tokens=300, logit_bias=CALL_BIAS).bind_tools([get_current_weather], tool_choice="required")
    asked = HumanMessage("What is the weather like?")
    calls = caller.invoke([asked])
    results = [
        ToolMessage(get_current_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in calls.tool_calls
    ]
    after = model(max_tokens=8).invoke([asked, calls, *results])
    streamed = None
    for piece in caller.stream([asked]):
        streamed = piece if streamed is None else streamed + piece
    structured = model(max_tokens=300).with_structured_output(Weather, method="json_schema").invoke("How warm is it?")
    vectors = OpenAIEmbeddings(
        model="text-embedding-3-large", base_url=base_url, api_key=key, check_embedding_ctx_length=False
    ).embed_documents(["a", "b"])
    return {
        "answered": [answered.content, answered.usage_metadata, answered.response_metadata["model_name"]],
        "streamed": [len(pieces), whole.content, whole.usage_metadata],
        "calls": calls.tool_calls,
        "results": [result.content for result in results],
        "after": after.type,
        "streamed_calls": streamed.tool_calls if streamed is not None else None,
        "structured": structured.model_dump(),
        "vectors": [len(vector) for vector in vectors],
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
