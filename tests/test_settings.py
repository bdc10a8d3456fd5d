"""Settings: precedence, sources, and what each value may be."""

import math
import os
import subprocess
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from puppetmaster.address import BrokerAddress
from puppetmaster.agent.options import read_options
from puppetmaster.errors import SettingsError
from puppetmaster.settings import Settings, options
from tests.certificates import make_certificate
from tests.shut import shut


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# What a new installation gets


def test_defaults_are_those_of_the_design():
    settings = Settings.load({}, {})
    assert settings == Settings()
    assert settings.broker == BrokerAddress(host="localhost", port=1883)
    assert (settings.data, settings.instance, settings.ca_file) == (Path("data"), None, None)
    assert (settings.topic, settings.channel, settings.window, settings.qos) == (
        "/remote/{destination}",
        "mqtt",
        500,
        1,
    )
    assert (settings.request_timeout, settings.log) == (3600.0, "info")
    assert (settings.keep_days, settings.keep_jobs, settings.keep_requests) == (30.0, 1000, 500_000)
    assert settings.max_requests == 100_000


def test_every_default_has_the_source_default():
    settings = Settings.load({}, {})
    assert {settings.source(option.name) for option in options()} == {"default"}


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().window = 3


def test_every_setting_names_its_variable_and_flag_after_itself():
    for option in options():
        assert option.env == "PUPPETMASTER_" + option.name.upper()
        assert option.flag == ("" if option.name == "token" else "--" + option.name.replace("_", "-"))
        assert option.help.endswith(".")


# Precedence and sources


@pytest.mark.parametrize(
    ("flags", "environ", "file", "window", "source"),
    [
        ({"window": "1"}, {"PUPPETMASTER_WINDOW": "2"}, "window = 3", 1, "flag --window"),
        ({"window": 1}, {}, "window = 3", 1, "flag --window"),
        ({"window": None}, {"PUPPETMASTER_WINDOW": "2"}, "window = 3", 2, "environment PUPPETMASTER_WINDOW"),
        ({}, {"PUPPETMASTER_WINDOW": ""}, "window = 3", 3, "file puppetmaster.toml"),
        ({}, {}, "", 500, "default"),
    ],
)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(flags, environ, file, window, source):
    write(Path("puppetmaster.toml"), file)
    settings = Settings.load(flags, environ)
    assert (settings.window, settings.source("window")) == (window, source)


def test_each_value_has_a_source_of_its_own():
    write(Path("puppetmaster.toml"), 'window = 3\nlog = "debug"')
    settings = Settings.load({"qos": 2}, {"PUPPETMASTER_LOG": "error"})
    assert (settings.window, settings.log, settings.qos) == (3, "error", 2)
    assert [settings.source(name) for name in ("window", "log", "qos", "topic")] == [
        "file puppetmaster.toml",
        "environment PUPPETMASTER_LOG",
        "flag --qos",
        "default",
    ]


def test_a_flag_with_two_words_is_named_as_it_is_typed():
    assert Settings.load({"request_timeout": 5}, {}).source("request_timeout") == "flag --request-timeout"


def test_the_process_environment_is_read_by_default(monkeypatch):
    monkeypatch.setenv("PUPPETMASTER_WINDOW", "42")
    assert Settings.load().window == 42


def test_a_bad_value_that_a_stronger_source_replaces_does_no_harm():
    assert Settings.load({"window": 7}, {"PUPPETMASTER_WINDOW": "many"}).window == 7


def test_a_changed_copy_is_checked_too():
    settings = Settings.load({"broker": "mqtt://example"}, {})
    assert replace(settings, window=9).window == 9
    with pytest.raises(SettingsError, match="window"):
        replace(settings, window=0)


# The broker's password


@pytest.mark.parametrize("text", ["hunter2\n", "hunter2", "hunter2\r\nnot this\n"])
def test_the_brokers_password_is_the_first_line_of_a_file(tmp_path, text):
    file = write(tmp_path / "password", text)
    settings = Settings.load({"broker": "mqtts://me@host"}, {"PUPPETMASTER_BROKER_PASSWORD_FILE": str(file)})
    assert settings.broker == BrokerAddress(host="host", port=8883, username="me", password="hunter2", tls=True)
    assert replace(settings, window=9).broker.password == "hunter2"
    assert settings.shown("broker") == "mqtts://me:***@host:8883"
    assert settings.shown("broker_password_file") == str(file)


@pytest.mark.parametrize(
    ("broker", "content", "said"),
    [
        ("mqtt://host", b"hunter2", "names nobody whose password it is"),
        ("mqtt://me:hunter3@host", b"hunter2", "only one of them may be given"),
        ("mqtt://me@host", b"", "there is none"),
        ("mqtt://me@host", b"\nhunter2\n", "there is none"),
        ("mqtt://me@host", b"hunter2\xff", "it is no UTF-8"),
    ],
)
def test_a_password_file_that_can_not_be_used_is_refused_without_a_word_of_it(tmp_path, broker, content, said):
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as caught:
        Settings.load({"broker": broker, "broker_password_file": str(file)}, {})
    assert caught.value.name == "broker_password_file"
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "broker",
    [
        "mqtt://me:hunter2@ho\u2100st", "mqtt://me:hunter2@[", "mqtt://me:hunter2@host:many", "mqtt://me:hun/ter2@host",
        "http://me:hunter2@host", "mqtt://me:hunter2@host/x", "mqtt//me:hunter2@host",
    ],
)  # fmt: skip
def test_an_address_that_can_not_be_used_is_refused_without_its_password(broker):
    for name in ("broker", "url"):
        with pytest.raises(SettingsError) as caught:
            Settings.load({name: broker.replace("mqtt:", "https:") if name == "url" else broker}, {})
        assert "hun" not in str(caught.value) and "ter2" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


# The certificate for the broker


def test_a_certificate_tells_the_broker_who_this_is(tmp_path):
    cert, key = make_certificate(tmp_path, "00:0c:29:1c:e8:02")
    environ = {"PUPPETMASTER_BROKER_CERT": str(cert), "PUPPETMASTER_BROKER_KEY": str(key)}
    settings = Settings.load({"broker": "mqtts://host"}, environ)
    assert settings.broker == BrokerAddress(host="host", port=8883, tls=True, cert=cert, key=key)
    assert replace(settings, window=9).broker == settings.broker
    assert (settings.shown("broker_cert"), settings.shown("broker_key")) == (str(cert), str(key))
    assert settings.broker.ssl_context() is not None
    key.unlink()
    with pytest.raises(ValueError, match="can't read"):
        settings.broker.ssl_context()


UNUSABLE = [
    ("mqtts://host", "cert.pem", None, "broker_cert", "a certificate for the broker needs its key"),
    ("mqtts://host", None, "key.pem", "broker_key", "and a key its certificate"),
    ("mqtt://host", "cert.pem", "key.pem", "broker_cert", "certificates are for mqtts://"),
    ("mqtts://host", "cert.pem", "other.pem", "broker_cert", "there is no certificate in .*cert.pem that fits"),
    ("mqtts://host", "key.pem", "key.pem", "broker_cert", "there is no certificate in .*key.pem that fits"),
    ("mqtts://host", "cert.pem", "encrypted.pem", "broker_cert", "the key in .*encrypted.pem is encrypted"),
]


@pytest.mark.parametrize(("broker", "cert", "key", "name", "said"), UNUSABLE)
def test_a_certificate_that_can_not_be_used_is_refused(tmp_path, broker, cert, key, name, said):
    make_certificate(tmp_path, "a")
    for made, how in (("other.pem", []), ("encrypted.pem", ["-aes256", "-pass", "pass:hunter2"])):
        command = ["openssl", "genpkey", "-algorithm", "ed25519", *how, "-out", str(tmp_path / made)]
        subprocess.run(command, check=True, capture_output=True)
    files = {"broker_cert": cert and str(tmp_path / cert), "broker_key": key and str(tmp_path / key)}
    with pytest.raises(SettingsError, match=said) as caught:
        Settings.load({"broker": broker, **files}, {})
    assert (caught.value.name, caught.value.source) == (name, f"flag --{name.replace('_', '-')}")
    given = [f"--{option.replace('_', '-')}={file}" for option, file in files.items() if file]
    with pytest.raises(SettingsError, match=said) as of_the_agent:
        read_options(["--id", "a", "--broker", broker, *given], {})
    assert of_the_agent.value.name == name


# The file


def test_the_file_may_set_everything(tmp_path):
    password = write(tmp_path / "password", "p@ss\n")
    cert, key = make_certificate(tmp_path, "u")
    certificates = write(tmp_path / "ca.pem", cert.read_text())
    file = write(
        tmp_path / "other.toml",
        f"""
        broker = "mqtts://u@example"
        broker_password_file = "{password}"
        broker_cert = "{cert}"
        broker_key = "{key}"
        ca_file = "{certificates}"
        data = "/var/lib/puppetmaster"
        instance = "north-1"
        topic = "/{{destination}}/controller"
        channel = "controller"
        window = 10
        qos = 0
        request_timeout = 90
        log = "WARNING"
        keep_days = 0.5
        keep_jobs = 5
        keep_requests = 50
        max_requests = 25
        http = "[::1]:8443"
        http_cert = "{certificates}"
        http_key = "{certificates}"
        cors = ["https://fleet.example", "http://localhost:3000"]
        trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]
        insecure = true
        login_hours = 2
        commands = "uptime, systemctl restart *"
        keep_output = 10
        max_memory = 500
        worker_patience = 5
        url = "https://fleet.example:8443/"
        token = "pm_secret"
        """,
    )
    settings = Settings.load({}, {}, file)
    assert settings.broker == BrokerAddress(
        host="example", port=8883, username="u", password="p@ss", tls=True, ca_file=certificates, cert=cert, key=key
    )
    assert {settings.source(option.name) for option in options()} == {f"file {file}"}
    assert (settings.log, settings.request_timeout, settings.data) == ("warning", 90.0, Path("/var/lib/puppetmaster"))
    assert isinstance(settings.request_timeout, float)
    assert (str(settings.http), settings.http_cert, settings.http_key) == ("[::1]:8443", certificates, certificates)
    assert settings.cors == ("https://fleet.example", "http://localhost:3000")
    assert settings.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8")
    assert (settings.insecure, settings.login_hours) == (True, 2.0)
    assert (settings.url, settings.token) == ("https://fleet.example:8443", "pm_secret")


def test_a_named_file_wins_over_the_variable_and_the_working_folder(tmp_path):
    write(Path("puppetmaster.toml"), "window = 1")
    by_variable = write(tmp_path / "variable.toml", "window = 2")
    by_flag = write(tmp_path / "flag.toml", "window = 3")
    environ = {"PUPPETMASTER_CONFIG": str(by_variable)}
    assert Settings.load({}, environ, by_flag).window == 3
    assert Settings.load({}, environ).window == 2
    assert Settings.load({}, {}).window == 1


def test_an_unknown_key_in_the_file_is_refused_by_name():
    write(Path("puppetmaster.toml"), "windwo = 3")
    with pytest.raises(
        SettingsError, match=r"^windwo \(from file puppetmaster.toml\): there is no such setting"
    ) as caught:
        Settings.load({}, {})
    assert "window" in str(caught.value)


def test_an_unknown_flag_is_refused():
    with pytest.raises(SettingsError, match="colour"):
        Settings.load({"colour": "red"}, {})


@pytest.mark.parametrize("environ", [{}, {"PUPPETMASTER_CONFIG": "missing.toml"}])
def test_a_named_file_that_is_not_there_is_an_error(environ):
    file = None if environ else Path("missing.toml")
    expected = "environment PUPPETMASTER_CONFIG" if environ else "flag --config"
    with pytest.raises(SettingsError, match=r"missing\.toml: No such file") as caught:
        Settings.load({}, environ, file)
    assert caught.value.source == expected


@pytest.mark.parametrize("content", [b"window = ", b"\xff\xfe", b"window = 1\nwindow = 2"])
def test_a_file_that_is_no_toml_is_an_error(tmp_path, content):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(SettingsError, match="no valid TOML"):
        Settings.load({}, {}, tmp_path / "bad.toml")


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_that_can_not_be_entered_holds_no_default_file_and_no_named_one(tmp_path, named):
    folder = tmp_path / "closed"
    folder.mkdir()
    write(folder / "puppetmaster.toml", "window = 3")
    os.chdir(folder)
    with shut(folder):
        if not named:
            assert Settings.load({}, {}) == Settings()
            return
        for file in (Path("puppetmaster.toml"), folder / "puppetmaster.toml"):
            with pytest.raises(SettingsError, match=r"Permission denied; name a file that you may read \(--config\)$"):
                Settings.load({}, {}, file)
        with pytest.raises(SettingsError, match=r"^broker_key .*: can't read .*/key.pem: Permission denied$"):
            Settings.load({"broker_key": str(folder / "key.pem")}, {})


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(SettingsError, match="can't read"):
        Settings.load({}, {}, tmp_path)


# The broker


def test_the_sdk_variables_are_used_when_no_broker_is_named():
    settings = Settings.load({}, {"BROKER_PORT_1883_TCP_ADDR": "172.17.0.2", "BROKER_PORT_1883_TCP_PORT": "1884"})
    assert settings.broker == BrokerAddress(host="172.17.0.2", port=1884)
    assert settings.source("broker") == "environment BROKER_PORT_1883_TCP_ADDR and BROKER_PORT_1883_TCP_PORT"


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"BROKER_PORT_1883_TCP_ADDR": "host"}, BrokerAddress(host="host", port=1883)),
        ({"BROKER_PORT_1883_TCP_PORT": "1999"}, BrokerAddress(host="localhost", port=1999)),
        ({"BROKER_PORT_1883_TCP_ADDR": "::1"}, BrokerAddress(host="::1", port=1883)),
        ({"BROKER_PORT_1883_TCP_ADDR": "", "BROKER_PORT_1883_TCP_PORT": ""}, BrokerAddress()),
    ],
)
def test_either_of_the_sdk_variables_is_enough(environ, address):
    assert Settings.load({}, environ).broker == address


@pytest.mark.parametrize("place", ["flag", "environment", "file"])
def test_the_sdk_variables_are_ignored_when_a_broker_is_named_anywhere(place):
    if place == "file":
        write(Path("puppetmaster.toml"), 'broker = "mqtt://named"')
    environ = {"BROKER_PORT_1883_TCP_ADDR": "sdk"}
    if place == "environment":
        environ["PUPPETMASTER_BROKER"] = "mqtt://named"
    flags = {"broker": "mqtt://named"} if place == "flag" else {}
    settings = Settings.load(flags, environ)
    assert settings.broker.host == "named"
    assert settings.source("broker").startswith(place)


def test_a_bad_port_of_the_sdk_is_named():
    with pytest.raises(SettingsError, match=r"broker \(from environment BROKER_PORT_1883_TCP_PORT\): the port"):
        Settings.load({}, {"BROKER_PORT_1883_TCP_PORT": "many"})


def test_a_certificate_needs_its_key(tmp_path):
    certificate = write(tmp_path / "cert.pem", "x")
    with pytest.raises(SettingsError, match="http_key") as caught:
        Settings.load({"http_cert": str(certificate)}, {})
    assert caught.value.name == "http_key"


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("127.1.2.3:80", "127.1.2.3", 80, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("localhost.example:80", "localhost.example", 80, False),
    ],
)
def test_where_http_is_served_tells_whether_others_can_reach_it(text, host, port, loopback):
    address = Settings.load({"http": text}, {}).http
    assert address is not None
    assert (address.host, address.port, address.is_loopback, str(address)) == (host, port, loopback, text)


@pytest.mark.parametrize("text", ["off", "OFF", None])
def test_http_may_be_off(text):
    assert Settings.load({"http": text}, {}).http is None


def test_the_token_is_never_shown():
    settings = Settings.load({}, {"PUPPETMASTER_TOKEN": "pm_hunter2"})
    assert settings.token == "pm_hunter2"
    assert settings.shown("token") == "***"
    assert "hunter2" not in repr(settings)


def test_the_certificates_go_with_the_broker(tmp_path):
    certificates, _ = make_certificate(tmp_path, "ca")
    settings = Settings.load({"broker": "mqtts://h"}, {"PUPPETMASTER_CA_FILE": str(certificates)})
    assert settings.ca_file == settings.broker.ca_file == certificates


def test_a_file_without_a_certificate_to_trust_is_refused_by_name(tmp_path):
    _, key = make_certificate(tmp_path, "ca")
    damaged = write(tmp_path / "damaged.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for file in (key, damaged, write(tmp_path / "empty.pem", "")):
        said = rf"^ca_file \(from flag --ca-file\): there is no certificate in {file}"
        with pytest.raises(SettingsError, match=said):
            Settings.load({"ca_file": str(file)}, {})
        with pytest.raises(SettingsError, match=f"^ca_file .*: there is no certificate in {file}"):
            read_options(["--id", "a", "--ca-file", str(file)], {})
    cert, _ = make_certificate(tmp_path, "ca")
    with shut(tmp_path), pytest.raises(SettingsError, match=f"^ca_file .*: can't read {cert}: Permission denied$"):
        Settings.load({"ca_file": str(cert)}, {})


def test_the_password_is_never_shown():
    settings = Settings.load({"broker": "mqtt://user:hunter2@host"}, {})
    assert settings.shown("broker") == "mqtt://user:***@host:1883"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "url", ["mqtt://user:hunter2@host:nine", "mqtt://user:hunter2@host/x", "x://user:hunter2@host"]
)
def test_the_password_is_not_in_an_error(url):
    with pytest.raises(SettingsError) as caught:
        Settings.load({"broker": url}, {})
    assert "hunter2" not in str(caught.value)


def test_values_are_shown_as_plain_json_values():
    shown = {option.name: Settings().shown(option.name) for option in options()}
    assert shown["data"] == "data"
    assert shown["instance"] is None
    assert all(value is None or isinstance(value, (str, int, float)) for value in shown.values())


# What each value may be

BAD = {
    "worker_patience": [0, -1, "soon", "nan", True],
    "commands": ["@/no/such/file", "ls $(*)", 5, True, []],
    "keep_output": [0, -1, "0", "much", 1.5, True],
    "broker": [
        "",
        "http://host",
        "mqtt://",
        "mqtt://host:0",
        "mqtt://host:99999",
        "mqtt://host/path",
        "mqtt://[",
        5,
        {},
    ],
    "broker_password_file": ["/no/such/file", "/", "", 5],
    "broker_cert": ["/no/such/file", "/", "", 5],
    "broker_key": ["/no/such/file", "/", "", 5],
    "ca_file": ["/no/such/file", "/", "", 5],
    "data": ["", 5, "a\0b"],
    "instance": ["", "a" * 17, "a/b", "a b", "+", "#", "ä", "a\n", 5],
    "topic": [
        "",
        "/remote",
        "/remote/{other}",
        "/{destination}/{destination}",
        "/{destination}/{x}",
        "/{destination}/+",
        "/{destination}/#",
        "/{destination}\n",
        "/{destination}\0",
        "/{destination}\udcff",
        "$SYS/{destination}",
        "/" * 200 + "{destination}",
        5,
    ],
    "channel": ["http", "", 1],
    "window": [0, 1001, -1, "0", "1001", "many", "5.0", "1_0", 5.0, True, "", "1e2", "9" * 5000, [1]],
    "qos": [-1, 3, "3", True, "one"],
    "request_timeout": [
        0,
        -1,
        "0",
        math.nan,
        math.inf,
        "nan",
        "inf",
        "-inf",
        "1e999",
        10**400,
        "soon",
        True,
        [],
        {},
        1e12,
    ],
    "log": ["loud", "", 3],
    "keep_days": [0, -1, "nan", math.inf, 1e9, "month"],
    "keep_jobs": [0, -1, 1.5, "all"],
    "keep_requests": [0, -1, 1.5],
    "max_requests": [0, -1, 10**9],
    "max_memory": [-1, 1.5, "50%", "", 10**9, True, []],
    "http": ["", "8080", "localhost", "host:99999", "http://host:1", "a b:1", "[::1]", "host:1/x", 5],
    "http_cert": ["/no/such/file", "/", "", 5],
    "http_key": ["/no/such/file", "/", "", 5],
    "cors": ["fleet.example", "https://fleet.example/page", "ftp://fleet.example", "*", 5, [5]],
    "trusted_proxies": ["proxy", "127.0.0.1/33", "10.0.0.1/8", "*", "", 5, [5]],
    "insecure": ["maybe", "", 3, []],
    "login_hours": [0, -1, "nan", 1e9, "soon"],
    "url": ["", "localhost:8080", "ftp://host", "http://", "http://user:hunter2@host", "http://host/?a=b", 5],
    "token": ["", "a\nb", "ä", 5],
}


@pytest.mark.parametrize(("value", "found"), [("off", 0), ("0", 0), (0, 0), (" OFF ", 0), ("512", 512), (None, None)])
def test_the_limit_of_the_memory_may_be_off(value, found):
    settings = Settings.load({"max_memory": value}, {})
    assert settings.max_memory == found
    assert settings.shown("max_memory") == ("off" if found == 0 else found)


def test_a_limit_of_the_memory_that_can_not_be_used_is_quoted_as_it_was_typed():
    with pytest.raises(SettingsError, match=r"it must be off, or a whole number of MiB from 1 to .*, not ' 2 GB '$"):
        Settings.load({"max_memory": " 2 GB "}, {})


def test_bad_values_are_known_for_every_setting():
    assert set(BAD) == {option.name for option in options()}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_its_name_and_source(name, value):
    with pytest.raises(SettingsError) as caught:
        Settings.load({name: value}, {})
    assert caught.value.name == name
    assert caught.value.source == f"flag --{name.replace('_', '-')}"
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(BAD) - {"broker_password_file", "ca_file"}))
def test_a_bad_value_in_the_environment_names_its_variable(name):
    bad = next((value for value in BAD[name] if isinstance(value, str) and value), "0")
    with pytest.raises(SettingsError, match=rf"^{name} \(from environment PUPPETMASTER_{name.upper()}\): "):
        Settings.load({}, {f"PUPPETMASTER_{name.upper()}": bad})


def test_a_bad_value_made_in_code_is_refused():
    with pytest.raises(SettingsError, match=r"^qos \(from code\): "):
        Settings(qos=7)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("window", " 1000 ", 1000),
        ("qos", "0", 0),
        ("request_timeout", "0.5", 0.5),
        ("request_timeout", "1e3", 1000.0),
        ("log", "Error", "error"),
        ("channel", "Controller", "controller"),
        ("instance", "a" * 16, "a" * 16),
        ("topic", "{destination}", "{destination}"),
        ("topic", "/fleet one/{destination}/in", "/fleet one/{destination}/in"),
        ("data", "~/x", Path.home() / "x"),
    ],
)
def test_a_good_text_becomes_its_value(name, text, value):
    assert getattr(Settings.load({name: text}, {}), name) == value
