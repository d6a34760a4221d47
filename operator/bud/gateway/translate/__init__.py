"""Chats with providers whose wire format is not OpenAI's: what is sent to them, and what comes back.

`wire` says what a translator is, `talk` reads a conversation, one module for each provider writes it their way, and
`functions` serves callers of the older functions where an upstream has tools only. Loaded only where it is needed; pure
but for the signing of requests.
"""
