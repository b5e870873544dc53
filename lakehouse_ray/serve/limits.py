"""What one answer and one server may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """rows_max: Rows of an answer in a text format. binary_rows_max: of Arrow and Parquet.

    answer_bytes_max: Bytes of an answer's body; it is complete before its first byte is sent.
    statement_timeout_s: From the request to its complete answer, waiting included.
    send_timeout_s: A client that takes no byte for so long is given up.
    body_bytes_max: Of a request.
    statements: Questions worked on at once, by threads of this process.
    sql_statements: Processes that wait for statements of strangers; 0: none may ask in SQL.
    sql_unconfined: Whether they may run where the system cannot keep files from them.
    sql_files_bytes_max: Bytes of a bucket's files that are copied to this machine for them.
    waiting_max: Questions that wait for these; more are turned away.
    cache_bytes: Memory for answers that are asked for again.
    memory_bytes: Memory that one question's statement may use.
    closed_days_held_s: A client need not ask again so long about days that are over; 0: it must.
    """

    rows_max: int = 100_000
    binary_rows_max: int = 10_000_000
    answer_bytes_max: int = 256 << 20
    statement_timeout_s: float = 30.0
    send_timeout_s: float = 60.0
    body_bytes_max: int = 1 << 20
    statements: int = 4
    sql_statements: int = 1
    sql_unconfined: bool = False
    sql_files_bytes_max: int = 4 << 30
    waiting_max: int = 100
    cache_bytes: int = 64 << 20
    memory_bytes: int = 1 << 30
    closed_days_held_s: int = 60
