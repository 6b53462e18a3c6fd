"""The files for TensorFlow Serving, judged without it: what it would refuse to start with, or start with and not serve.

Its API package holds ModelServerConfig. The two other messages are not in any Python package: their fields are listed
here, from the server's session_bundle_config.proto and monitoring_config.proto.
"""

import dataclasses
import re
from pathlib import PurePosixPath

import pytest
import yaml
from deployment import MODEL, REST_PORT, SERVING
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from descargan_tf.config import Config

# The server's own names of what it counts (servables/tensorflow/util.cc); histograms have a _sum, a _count and buckets.
COUNTERS = ("/tensorflow/serving/request_count",)
HISTOGRAMS = ("/tensorflow/serving/request_latency", "/tensorflow/serving/runtime_latency")
FLAGS = {  # of tensorflow_model_server, as far as the files use them
    "port",
    "rest_api_port",
    "rest_api_num_threads",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "monitoring_config_file",
    "enable_batching",
    "batching_parameters_file",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
}
REST_TIMEOUT_SECONDS = 30  # the server's default


# ---- text protos

FIELD = descriptor_pb2.FieldDescriptorProto
INT64, STRING, BOOL = ".google.protobuf.Int64Value", ".google.protobuf.StringValue", ".google.protobuf.BoolValue"
MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": INT64,
        "batch_timeout_micros": INT64,
        "max_enqueued_batches": INT64,
        "num_batch_threads": INT64,
        "thread_pool_name": STRING,
        "allowed_batch_sizes": (FIELD.TYPE_INT64, FIELD.LABEL_REPEATED),
        "pad_variable_length_inputs": (FIELD.TYPE_BOOL, FIELD.LABEL_OPTIONAL),
        "enable_large_batch_splitting": BOOL,
    },
    "PrometheusConfig": {
        "enable": (FIELD.TYPE_BOOL, FIELD.LABEL_OPTIONAL),
        "path": (FIELD.TYPE_STRING, FIELD.LABEL_OPTIONAL),
    },
    "MonitoringConfig": {"prometheus_config": ".descargan_test.PrometheusConfig"},
}


@pytest.fixture(scope="module")
def messages():
    """Classes of the messages that no Python package has; field numbers do not matter in text."""
    file = descriptor_pb2.FileDescriptorProto(
        name="descargan_test.proto",
        package="descargan_test",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, type=FIELD.TYPE_MESSAGE, type_name=kind, label=FIELD.LABEL_OPTIONAL
                )
            else:
                message.field.add(name=field, number=number, type=kind[0], label=kind[1])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"descargan_test.{name}")) for name in MESSAGES
    }


def model_config(name):
    text = (SERVING / name).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


@pytest.mark.parametrize("name", ["models.config", "canary.models.config"])
def test_the_model_configurations_name_one_model_and_where_its_versions_lie(name):
    model = model_config(name)
    assert model.name == MODEL
    assert model.model_platform == "tensorflow"
    assert model.base_path == f"/models/{MODEL}"
    assert not re.search(r"/\d+/?$", model.base_path)  # a version folder: the server would find no version in it


def test_a_new_version_takes_over_and_the_one_before_stays_loaded():
    policy = model_config("models.config").model_version_policy
    assert policy.WhichOneof("policy_choice") == "latest"
    assert policy.latest.num_versions == 2
    assert not model_config("models.config").version_labels  # none could be given before there is a version


def test_the_canary_configuration_labels_only_versions_that_it_loads():
    model = model_config("canary.models.config")
    assert model.model_version_policy.WhichOneof("policy_choice") == "specific"
    versions = list(model.model_version_policy.specific.versions)
    labels = dict(model.version_labels)
    assert set(labels) == {"stable", "canary"}
    assert labels["stable"] < labels["canary"]
    assert sorted(labels.values()) == versions
    assert all(re.fullmatch("[a-zA-Z0-9_]+", label) for label in labels)


def batching(messages, name):
    return text_format.Parse((SERVING / name).read_text(), messages["BatchingParameters"]())


@pytest.mark.parametrize("name", ["batching_parameters.txt", "gpu.batching_parameters.txt"])
def test_batching_parameters_are_what_the_server_accepts(messages, name):
    parameters = batching(messages, name)
    for field in ("max_batch_size", "num_batch_threads", "max_enqueued_batches"):
        assert getattr(parameters, field).value >= 1
    assert parameters.HasField("batch_timeout_micros")
    assert parameters.batch_timeout_micros.value < 1_000_000  # microseconds
    assert parameters.enable_large_batch_splitting.value
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert not sizes or sizes[-1] == parameters.max_batch_size.value
    assert not parameters.pad_variable_length_inputs  # a padded image is another image


def test_a_full_queue_on_a_cpu_is_answered_within_the_timeout_of_a_request(messages):
    parameters = batching(messages, "batching_parameters.txt")
    core_seconds_per_image, cores = 4, parameters.num_batch_threads.value
    assert capacity(parameters) * core_seconds_per_image / cores < REST_TIMEOUT_SECONDS


def test_an_export_is_warmed_up_for_the_largest_batch(messages):
    largest = next(field.default for field in dataclasses.fields(Config) if field.name == "export_largest_batch")
    assert largest == batching(messages, "batching_parameters.txt").max_batch_size.value
    gpu = batching(messages, "gpu.batching_parameters.txt").max_batch_size.value
    assert f"--export_largest_batch={gpu}" in (SERVING / "gpu.batching_parameters.txt").read_text()


def capacity(parameters):
    """Images that batching holds before it refuses the next one."""
    batches = parameters.num_batch_threads.value + parameters.max_enqueued_batches.value
    return batches * parameters.max_batch_size.value


def test_metrics_are_on_the_servers_default_path(messages):
    config = text_format.Parse((SERVING / "monitoring.config").read_text(), messages["MonitoringConfig"]())
    assert config.prometheus_config.enable is True
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_an_unknown_field_is_noticed(messages):
    with pytest.raises(text_format.ParseError, match='no field named "max_batchsize"'):
        text_format.Parse("max_batchsize { value: 4 }", messages["BatchingParameters"]())


# ---- YAML


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((SERVING / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def kubernetes():
    """The objects of kubernetes.yaml by kind."""
    objects = list(yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text()))
    by_kind = {item["kind"]: item for item in objects}
    assert len(by_kind) == len(objects)
    return by_kind


@pytest.fixture(scope="module")
def pod(kubernetes):
    return kubernetes["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


def servers():
    """(name, image, program, arguments, {mounted folder: read only}) of every place where the server is started."""
    services = yaml.safe_load((SERVING / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        mounts = {mount["target"]: mount["read_only"] for mount in service["volumes"]}
        yield name, service["image"], service["entrypoint"], service["command"], mounts
    for item in yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text()):
        if item["kind"] == "Deployment":
            (one,) = item["spec"]["template"]["spec"]["containers"]
            mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
            yield "kubernetes", one["image"], one["command"], one["args"], mounts


SERVERS = pytest.mark.parametrize(
    ("image", "program", "arguments", "mounts"),
    [pytest.param(*rest, id=name) for name, *rest in servers()],
)


def flags_of(arguments):
    flags = {}
    for argument in arguments:
        name, value = re.fullmatch(r"--(\w+)=(\S+)", argument).groups()
        assert name not in flags
        flags[name] = value
    return flags


def below(path, mounts):
    """The mount point that a path lies in."""
    return next((m for m in mounts if PurePosixPath(path).is_relative_to(m)), None)


@SERVERS
def test_the_server_is_started_with_flags_that_it_has(image, program, arguments, mounts):
    assert program == ["tensorflow_model_server"]
    assert set(flags_of(arguments)) <= FLAGS


@SERVERS
def test_the_image_is_pinned(image, program, arguments, mounts):
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+(-gpu)?", image)


def test_every_place_runs_the_same_release_and_only_the_gpu_service_the_gpu_image():
    images = {name: image for name, image, *_ in servers()}
    assert len({image.removesuffix("-gpu") for image in images.values()}) == 1
    assert {name for name, image in images.items() if image.endswith("-gpu")} == {"gpu"}


@SERVERS
def test_every_file_that_a_flag_names_is_mounted_and_here(image, program, arguments, mounts):
    named = {flag: path for flag, path in flags_of(arguments).items() if flag.endswith("_file")}
    assert set(named) == {"model_config_file", "monitoring_config_file", "batching_parameters_file"}
    for path in named.values():
        assert below(path, mounts) == "/config"
        assert (SERVING / PurePosixPath(path).relative_to("/config")).is_file()
    assert mounts["/config"]


@SERVERS
def test_the_models_are_mounted_read_only_where_the_configuration_looks(image, program, arguments, mounts):
    where = below(model_config("models.config").base_path, mounts)
    assert where in ("/models", f"/models/{MODEL}")
    assert mounts[where]


@SERVERS
def test_ports_differ_and_rest_is_on(image, program, arguments, mounts):
    flags = flags_of(arguments)
    assert int(flags["rest_api_port"]) == REST_PORT  # 0 is off, the same as --port too
    assert flags["port"] != flags["rest_api_port"]


@SERVERS
def test_labels_can_be_moved_and_survive_a_restart(image, program, arguments, mounts):
    flags = flags_of(arguments)
    assert int(flags["model_config_file_poll_wait_seconds"]) > 0
    assert flags["allow_version_labels_for_unavailable_models"] == "true"


@SERVERS
def test_too_many_requests_are_refused_instead_of_waiting_for_a_thread(messages, image, program, arguments, mounts):
    flags = flags_of(arguments)
    assert flags["enable_batching"] == "true"  # the parameters alone are an error
    parameters = batching(messages, PurePosixPath(flags["batching_parameters_file"]).name)
    assert int(flags["rest_api_num_threads"]) > capacity(parameters)


def test_compose_opens_its_ports_to_this_machine_alone(compose):
    for service in compose["services"].values():
        flags = flags_of(service["command"])
        assert service["ports"] == [f"127.0.0.1:{flags[f]}:{flags[f]}" for f in ("port", "rest_api_port")]


def test_compose_starts_one_service_a_profile_and_stops_it_at_once(compose):
    assert {name: service["profiles"] for name, service in compose["services"].items()} == {
        "cpu": ["cpu"],
        "gpu": ["gpu"],
    }
    assert all(service["init"] is True for service in compose["services"].values())


def test_compose_mounts_folders_and_makes_no_empty_one(compose):
    for service in compose["services"].values():
        models, config = service["volumes"]
        assert models["source"] == "${EXPORT_BASE:-../../exports/descargan}"
        assert models["bind"] == {"create_host_path": False}
        assert config["source"] == "."  # this folder; a single file would not follow an editor's replacement


def test_compose_asks_for_a_gpu_in_the_gpu_service_alone(compose):
    (device,) = compose["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in compose["services"]["cpu"]


def test_kubernetes_names_agree(kubernetes, pod, container):
    deployment, service = kubernetes["Deployment"], kubernetes["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    flags = flags_of(container["args"])
    assert ports == {"grpc": int(flags["port"]), "rest": int(flags["rest_api_port"])}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == kubernetes["PersistentVolumeClaim"]["metadata"]["name"]


def test_kubernetes_configuration_is_these_files_and_reaches_running_pods(pod, container):
    kustomization = yaml.safe_load((SERVING / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["kubernetes.yaml"]
    (generated,) = kustomization["configMapGenerator"]
    named = {PurePosixPath(p).name for f, p in flags_of(container["args"]).items() if f.endswith("_file")}
    assert set(generated["files"]) == named
    assert {"name": "config", "configMap": {"name": generated["name"]}} in pod["volumes"]
    assert kustomization["generatorOptions"]["disableNameSuffixHash"] is True
    assert not any("subPath" in mount for mount in container["volumeMounts"])


def test_a_condemned_pod_outlives_its_requests(pod, container):
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert REST_TIMEOUT_SECONDS < int(seconds) < pod["terminationGracePeriodSeconds"]
    assert pod["shareProcessNamespace"] is True


def test_a_busy_pod_is_not_restarted_and_a_slow_start_is_waited_for(container):
    assert container["livenessProbe"]["tcpSocket"] == {"port": "rest"}
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 600
    assert startup["exec"] == container["readinessProbe"]["exec"]


def test_threads_and_cores_agree(messages, container):
    flags = flags_of(container["args"])
    cores = container["resources"]["limits"]["cpu"]
    assert cores == flags["tensorflow_intra_op_parallelism"] == flags["tensorflow_inter_op_parallelism"]
    assert int(cores) == batching(messages, "batching_parameters.txt").num_batch_threads.value


# ---- the autoscaler


def prometheus_names():
    """What the server's exporter makes of its names: all but letters, digits and _ becomes a colon."""
    plain = [re.sub("[^a-zA-Z0-9_]", ":", name) for name in COUNTERS]
    histograms = [re.sub("[^a-zA-Z0-9_]", ":", name) for name in HISTOGRAMS]
    return {*plain, *(name + suffix for name in histograms for suffix in ("_sum", "_count", "_bucket"))}


def test_the_autoscaler_asks_for_a_metric_that_the_server_has(kubernetes):
    (metric,) = kubernetes["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = yaml.safe_load((SERVING / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    (series,) = re.findall('__name__="([^"]+)"', rule["seriesQuery"])
    assert series in prometheus_names()
    assert series.endswith("_sum")  # of microseconds: its rate over 1e6 is the number of requests in progress
    assert rule["metricsQuery"].startswith("sum(rate(<<.Series>>{<<.LabelMatchers>>}[")
    assert rule["metricsQuery"].endswith(" / 1e6")
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    assert all(f'{label}!=""' in rule["seriesQuery"] for label in rule["resources"]["overrides"])


def test_the_autoscaler_owns_the_number_of_pods(kubernetes):
    spec = kubernetes["HorizontalPodAutoscaler"]["spec"]
    deployment = kubernetes["Deployment"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    (metric,) = spec["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "4"}  # one request per core


def test_prometheus_is_told_where_the_metrics_are(messages, kubernetes):
    annotations = kubernetes["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    config = text_format.Parse((SERVING / "monitoring.config").read_text(), messages["MonitoringConfig"]())
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(REST_PORT),
        "prometheus.io/path": config.prometheus_config.path,
    }
