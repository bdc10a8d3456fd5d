"""Benchmarks: what a request costs, beside what MQTT alone costs, in the same run."""
