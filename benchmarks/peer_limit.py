"""The rate that django-ratelimit's decorator gets; the sites set it before the views are imported."""

rate: str | None = None
