"""Everything that knows an outside format or system: events, sources, traces, findings, containment targets."""
