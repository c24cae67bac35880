from v4s_lib.worlds.visibility import *  # noqa: F403  (moved to worlds/visibility.py; import it from there)
