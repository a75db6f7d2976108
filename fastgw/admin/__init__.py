"""The admin listener: health, readiness and figures of a running gateway."""

from .app import Admin, AdminRefused

__all__ = ["Admin", "AdminRefused"]
