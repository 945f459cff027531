"""Run in an environment of its own: LiteLLM's SDK and LangChain ask the gateway about an image, streamed and not."""

import json
import sys

import litellm
from langchain_openai import ChatOpenAI

address, question, image = sys.argv[1], sys.argv[2], sys.stdin.read()
content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": image}}]
messages = [{"role": "user", "content": content}]
named = {"model": "openai/m", "api_base": address, "api_key": "none", "messages": messages}
whole = litellm.completion(**named)
streamed = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**named, stream=True) if chunk.choices]
chat = ChatOpenAI(model="m", base_url=address, api_key="none", max_retries=0, stream_usage=True)
said = chat.invoke(messages)
pieces = list(chat.stream(messages))
answers = {
    "litellm": whole.choices[0].message.content,
    "litellm, streamed": "".join(streamed),
    "langchain": said.content,
    "langchain, streamed": "".join(piece.content for piece in pieces),
}
usage = {
    "litellm": whole.usage.prompt_tokens_details.image_tokens,
    "langchain": said.response_metadata["token_usage"]["visionthink"]["image_tokens"],
    "langchain, streamed": [p.usage_metadata["input_tokens"] for p in pieces if p.usage_metadata][-1],
}
sys.stdout.write(json.dumps({"answers": answers, "usage": usage}))
