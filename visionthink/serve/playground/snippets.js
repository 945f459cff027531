// The question as code that asks the same: what is shown is what runs.

/** { python, curl } for a question in a mode; `pictures` may be empty, then a file name stands in. */
export function snippets({ base, model, question, options, pictures, key }) {
  const files = pictures.length ? pictures.map(({ name, type }) => ({ name, type })) : [{ name: "image.png", type: "image/png" }];
  const asked = question || "What is shown?";
  return { python: python(base, model, asked, options, files, key), curl: curl(base, model, asked, options, files, key) };
}

function python(base, model, question, options, files, key) {
  const images = files.map(({ name, type }) => `    image(${quoted(name)}, ${quoted(type)}),`).join("\n");
  return `import base64
from openai import OpenAI

client = OpenAI(base_url=${quoted(`${base}v1`)}, api_key=${key ? '"YOUR API KEY"' : '"none needed"'})

def image(path, kind):
    data = base64.b64encode(open(path, "rb").read()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}

content = [
${images}
    {"type": "text", "text": ${quoted(question)}},
]
reply = client.chat.completions.create(
    model=${quoted(model)},
    messages=[{"role": "user", "content": content}],
    extra_body={"visionthink": ${quoted(options)}},
)
print(reply.choices[0].message.content)
print(reply.usage)
`;
}

/** The body is joined by the shell and goes through a pipe, since a picture is longer than an argument may be. */
function curl(base, model, question, options, files, key) {
  const text = (part) => `  printf %s '${part.replaceAll("'", String.raw`'\''`)}'\n`;
  const image = ({ name, type }) =>
    text(`{"type": "image_url", "image_url": {"url": "data:${type};base64,`) + `  base64 < ${inShell(name)} | tr -d '\\n'\n` + text('"}}, ');
  return `{
${text(`{"model": ${quoted(model)}, "visionthink": ${quoted(options)}, "messages": [{"role": "user", "content": [`)}${files.map(image).join("")}${text(`{"type": "text", "text": ${quoted(question)}}]}]}`)}} | curl ${inShell(`${base}v1/chat/completions`)} \\
  -H 'Content-Type: application/json' \\
${key ? "  -H 'Authorization: Bearer YOUR API KEY' \\\n" : ""}  --data-binary @-
`;
}

/** A string, or an object of strings and numbers, as both JSON and Python write it. */
function quoted(value) {
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, entry]) => `${JSON.stringify(name)}: ${JSON.stringify(entry)}`).join(", ")}}`;
}

function inShell(word) {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
