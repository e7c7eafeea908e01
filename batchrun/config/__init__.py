"""``cluster.yaml``: the one place of configuration, validated, every value with its source."""

from batchrun.config.settings import (
    ConnectSettings,
    HookSettings,
    LocalSettings,
    RunSettings,
    SecuritySettings,
    ServiceSettings,
    Setting,
    Settings,
    WebhookSettings,
    WorkerGroup,
    json_schema,
    load_settings,
    settings_for_address,
    shown_url,
)

__all__ = [
    "ConnectSettings",
    "HookSettings",
    "LocalSettings",
    "RunSettings",
    "SecuritySettings",
    "ServiceSettings",
    "Setting",
    "Settings",
    "WebhookSettings",
    "WorkerGroup",
    "json_schema",
    "load_settings",
    "settings_for_address",
    "shown_url",
]
