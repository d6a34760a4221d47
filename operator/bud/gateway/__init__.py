"""The gateway: one OpenAI-compatible address for everything served. It only reads; see docs/gateway.md."""
