"""
The lean recorder: spans and series of calls as OTLP bytes from templates, in pure Python, without the SDK.

It serves plain configurations alone; `rsketch_telemetry.recorders` chooses.
"""
