"""One message to every device, with paho-mqtt: ``python plain_paho.py PORT < devices.txt``.

The same as ``plain_aiomqtt.py``, with callbacks: each answer sends the next request.
"""

import itertools
import json
import sys
import time

import paho.mqtt.client as mqtt

WINDOW = 500


def main(port: int, devices: list[str]) -> None:
    """Ask all devices, at most a window of them at once."""
    ids, left, asked, answers = itertools.count(1_000_000), iter(devices), {}, {}

    def ask_next(client: mqtt.Client) -> None:
        device = next(left, None)
        if device is None:
            return
        number = next(ids)
        asked[number] = device
        tunnel = f"/remote/{device}/answer/script"
        request = {"id": number, "method": "post", "resource": "/echo", "tunnel": tunnel}
        client.publish(f"/remote/{device}", json.dumps(request), qos=1)

    def on_subscribe(client: mqtt.Client, *_: object) -> None:
        client.user_data_set(time.perf_counter())
        for _number in range(WINDOW):
            ask_next(client)

    def on_message(client: mqtt.Client, start: float, message: mqtt.MQTTMessage) -> None:
        answer = json.loads(message.payload)
        answers[asked.pop(answer["id"])] = answer
        ask_next(client)
        if len(answers) == len(devices):
            print(sum(answer["code"] == 200 for answer in answers.values()), time.perf_counter() - start)
            client.disconnect()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_subscribe, client.on_message = on_subscribe, on_message
    client.max_inflight_messages_set(WINDOW)
    client.connect("127.0.0.1", port)
    client.subscribe("/remote/+/answer/script", qos=1)
    client.loop_forever()


main(int(sys.argv[1]), sys.stdin.read().split())
