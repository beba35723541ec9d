"""Push notifications: messages for users who are not connected, by Web Push or another provider."""
