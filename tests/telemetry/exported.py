"""What telemetry made: real providers of the SDK that keep it in memory, and views of it for tests to compare."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asimov_sync.telemetry import names

GENERATIONS = {"": names.V1_41, "gen_ai_latest_experimental": names.LATEST}


class Exported:
    """Providers for `install()`, and what came of them."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self._found = {}  # OpenTelemetry 1.22 tells a histogram again only where there is something new
        self.tracer = self.tracer_provider.get_tracer("tests")
        self.span = self.tracer.start_as_current_span

    @property
    def spans(self):
        """Those that have ended, in the order of their starts."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, name):
        """All spans of this name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        """The only span of this name."""
        (span,) = self.named(name)
        return span

    def paths(self):
        """For each span the names from its farthest ancestor down to it, sorted; ERROR behind the name of one that failed."""
        spans = {span.context.span_id: span for span in self.spans}

        def path(span):
            name = span.name if span.status.is_unset else span.name + " " + span.status.status_code.name
            return (path(spans[span.parent.span_id]) if span.parent is not None else "") + "/" + name

        return sorted(path(span) for span in spans.values())

    def metrics(self):
        """The data points of each metric of ours, by its name; some releases of the SDK measure themselves, too."""
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics if scope.scope.name == "asimov_sync" else ():
                    self._found[metric.name] = metric
        return self._found

    def points(self, name):
        """The data points of a metric."""
        return list(self.metrics()[name].data.data_points)

    def attributes(self):
        """The names of all attributes, of spans and of metrics."""
        found = {name for span in self.spans if span.instrumentation_scope.name == "asimov_sync" for name in span.attributes}
        for metric in self.metrics().values():
            found.update(name for point in metric.data.data_points for name in point.attributes)
        return found
