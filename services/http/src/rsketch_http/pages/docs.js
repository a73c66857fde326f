// Shows the OpenAPI document of this server and sends requests to it. Everything is put into the page as text.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function resolve(spec, schema) {
  const found = (schema || {}).$ref;
  return found ? found.slice(2).split("/").reduce((part, key) => part[key], spec) : schema || {};
}

function typeName(spec, schema) {
  const name = schema && schema.$ref ? schema.$ref.split("/").pop() : resolve(spec, schema).type;
  const fallback = resolve(spec, schema).default;
  return (name || "any") + (fallback === undefined ? "" : ` = ${fallback}`);
}

function example(spec, schema) {
  const resolved = resolve(spec, schema);
  if (resolved.type !== "object") return resolved.example ?? (resolved.type === "integer" ? 0 : "ada");
  const members = Object.entries(resolved.properties || {});
  return Object.fromEntries(members.map(([name, member]) => [name, example(spec, member)]));
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { textContent: text, scope: "col" })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function parameterRows(spec, parameters, inputs) {
  return parameters.map((parameter) => {
    const input = make("input", { value: resolve(spec, parameter.schema).example ?? "" });
    input.setAttribute("aria-label", parameter.name);
    inputs.set(parameter.name, input);
    const name = make("span", {}, make("code", { textContent: parameter.name }), parameter.required ? " *" : "");
    return [name, typeName(spec, parameter.schema), parameter.description || "", input];
  });
}

function responseRows(spec, responses) {
  return Object.entries(responses).map(([status, response]) => {
    const content = Object.entries(response.content || {});
    const shapes = content.map(([media, { schema }]) => `${media}: ${typeName(spec, schema)}`).join(", ");
    return [make("code", { textContent: status }), response.description, shapes];
  });
}

async function send(method, path, inputs, body, output) {
  const given = [...inputs].filter(([, input]) => input.value !== "").map(([name, input]) => [name, input.value]);
  const query = new URLSearchParams(given).toString();
  const options = body ? { method, body: body.value, headers: { "content-type": "application/json" } } : { method };
  output.className = "";
  try {
    const response = await fetch(query ? `${path}?${query}` : path, options);
    output.className = response.ok ? "" : "bad";
    output.textContent = `${response.status} ${response.statusText}\n`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) output.append(part.value);
  } catch (error) {
    output.className = "bad";
    output.textContent = `No answer: ${error.message}`;
  }
}

function operationNode(spec, path, method, operation) {
  const inputs = new Map();
  const parts = [];
  if (operation.parameters) {
    const rows = parameterRows(spec, operation.parameters, inputs);
    parts.push(make("h3", { textContent: "Parameters" }), table(["Name", "Type", "Meaning", "Value"], rows));
  }
  const media = ((operation.requestBody || {}).content || {})["application/json"];
  const body = media && make("textarea", { rows: 4, value: JSON.stringify(example(spec, media.schema), null, 2) });
  if (body) {
    body.setAttribute("aria-label", "body");
    parts.push(make("h3", { textContent: `Body: ${typeName(spec, media.schema)}` }), body);
  }
  const output = make("pre", { hidden: true });
  const button = make("button", { type: "button", textContent: "Send" });
  button.addEventListener("click", () => {
    output.hidden = false;
    send(method.toUpperCase(), path, inputs, body, output);
  });
  parts.push(button, output, make("h3", { textContent: "Responses" }));
  parts.push(table(["Status", "Meaning", "Content"], responseRows(spec, operation.responses)));
  const summary = make(
    "summary",
    {},
    make("span", { className: `method ${method}`, textContent: method }),
    make("code", { textContent: path }),
    make("span", { className: "summary", textContent: ` ${operation.summary || ""}` }),
  );
  return make("details", {}, summary, make("div", { className: "operation" }, ...parts));
}

function schemaNode(name, schema) {
  const shown = make("pre", { textContent: JSON.stringify(schema, null, 2) });
  const summary = make("summary", {}, make("code", { textContent: name }));
  return make("details", {}, summary, make("div", { className: "operation" }, shown));
}

function show(spec) {
  const groups = new Map();
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = (item[method].tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), operationNode(spec, path, method, item[method])]);
    }
  }
  const schemas = Object.entries((spec.components || {}).schemas || {});
  groups.set("schemas", schemas.map(([name, schema]) => schemaNode(name, schema)));
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}`;
  document.getElementById("description").textContent = spec.info.description || "";
  const sections = [...groups].map(([tag, nodes]) => make("section", {}, make("h2", { textContent: tag }), ...nodes));
  document.getElementById("operations").replaceChildren(...sections);
}

async function load() {
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    show(await response.json());
  } catch (error) {
    const text = `The document cannot be shown: ${error.message}`;
    document.getElementById("operations").replaceChildren(make("p", { className: "bad", textContent: text }));
  }
}

load();
