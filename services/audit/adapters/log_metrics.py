"""What the log exports of itself when it is scraped."""

from services.audit.adapters.group_commit import GroupCommitLog
from services.common.telemetry import metrics
from services.common.telemetry.metrics import follow


def follow_log(log: GroupCommitLog, queue_limit: int) -> None:
    """Has the gauges ask the log."""
    metrics.AUDIT_QUEUE_LIMIT.set(queue_limit)
    follow(metrics.AUDIT_QUEUE, lambda: log.waiting)
    follow(metrics.AUDIT_LAG, lambda: log.lag)
    follow(metrics.AUDIT_SIZE, lambda: log.size)
    follow(metrics.AUDIT_MIRROR_BEHIND, lambda: log.mirror_behind)
