"""Answers that are given again: in memory, in Redis, in the lake's own store."""
