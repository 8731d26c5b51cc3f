// A web application as people write it, behind an adapter from function URL events to Node's HTTP.
const cookies = require("cookie-parser");
const express = require("express");
const serverless = require("serverless-http");

const app = express();
app.use(express.json());
app.use(cookies());
app.get("/", (_request, response) => response.type("html").send("<h1>Grüezi</h1>"));
app.post("/items/:id", (request, response) => response.status(201).json({ id: request.params.id, ...request.body, ...request.query }));
app.post("/login", (_request, response) => response.cookie("session", "abc").cookie("theme", "dark").json({ ok: true }));
app.get("/me", (request, response) => response.json(request.cookies));
app.get("/bytes", (_request, response) => response.type("application/octet-stream").send(Buffer.from([0, 255, 1, 254])));
app.get("/fail", () => { throw new Error("on purpose"); });
exports.handler = serverless(app, { binary: ["application/octet-stream"] });

exports.streamed = awslambda.streamifyResponse(async (event, stream) => {
  const described = { statusCode: 203, headers: { "Content-Type": "text/plain", "X-Path": event.rawPath }, cookies: ["a=b"] };
  const out = awslambda.HttpResponseStream.from(stream, described);
  out.write("first ");
  if (event.rawPath === "/wait") await new Promise((resolve) => setTimeout(resolve, 60000));
  out.write("second");
  out.end();
});
