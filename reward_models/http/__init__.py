"""Judges behind a server that speaks the OpenAI chat protocol (vLLM, SGLang, `transformers serve`, commercial ones).

`transport` carries JSON and bears with a server's faults, `cache` remembers replies on disk, `templates` holds our
wording of the requests, `parsers` reads replies, `chat` asks questions by means of these, and `judges` makes scorers.
"""
