"""What servers other than OpenAI's answer and refuse, by their documentation and their users' reports.

Partly from memory, none tried live; one small file each.

Each has ``NAME`` and ``BASE_URL`` as in docs/servers.md, the ``SETTINGS`` that it needs, and ``answer``, which gives
status and body of an answer, or None where the server answers as OpenAI's does.
"""
