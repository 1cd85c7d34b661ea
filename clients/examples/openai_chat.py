"""With OpenAI's own SDK (pip install openai), against the gateway: one answer, and one that streams.

python openai_chat.py [http://127.0.0.1:8080/v1]
"""

import sys

import openai

client = openai.OpenAI(
    base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1",
    api_key="none, or one of this gateway",
)

answer = client.chat.completions.create(
    model="ensemble",
    messages=[{"role": "user", "content": "What is 37 + 58?"}],
)
print(answer.choices[0].message.content)

stream = client.chat.completions.create(
    model="ensemble",
    messages=[{"role": "user", "content": "Count from 1 to 60."}],
    stream=True,
)
for event in stream:
    print(event.choices[0].delta.content or "", end="", flush=True)
print()
