"""What an operator sees of the services: metrics, traces, the state of each process. It decides nothing.

``metrics`` names every number in one place, ``rpc`` measures calls between services, ``tracing`` makes spans where
the trace is sampled, ``process`` is what wiring starts. Only this package imports prometheus_client and
opentelemetry, and decisions know nothing of it: what is counted is counted where it is recorded or asked
(docs/adr, "What is counted is what is recorded").
"""
