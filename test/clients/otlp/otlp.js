// Judges what otlp_spans() answers, given on standard input, by OpenTelemetry's
// own code: its transformer for OTLP, and the classes that it has generated from
// the protocol's schema.
//
// 1. Every field has a name and a type of the schema: read by its classes and
//    written again, the request is the same.
// 2. The transformer, given the same spans, makes the same message.
//
// Prints "ok" and the number of spans, or what is wrong.

'use strict';

const assert = require('assert');
const path = require('path');
const transformer = require('@opentelemetry/otlp-transformer');
const main = require.resolve('@opentelemetry/otlp-transformer');
const schema = require(path.join(path.dirname(main), 'generated', 'root.js'));
const Request = schema.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;

// JSON has ids in hexadecimal, protobuf's own JSON in base64.
function rekey(request, from, to) {
  for (const resource of request.resourceSpans)
    for (const scope of resource.scopeSpans)
      for (const span of scope.spans)
        for (const id of ['traceId', 'spanId', 'parentSpanId'])
          if (id in span) span[id] = Buffer.from(span[id], from).toString(to);
  return request;
}

// The spans as the SDK would hand them to the transformer.
function readable(request) {
  const spans = [];
  const plain = (attributes) => Object.fromEntries(attributes.map(({ key, value }) =>
    [key, 'intValue' in value ? Number(value.intValue) : value.stringValue]));
  const time = (nanos) => [Number(BigInt(nanos) / 1000000000n), Number(BigInt(nanos) % 1000000000n)];
  for (const { resource, scopeSpans } of request.resourceSpans) {
    const shared = { attributes: plain(resource.attributes) };
    for (const { scope, spans: inner } of scopeSpans)
      for (const s of inner)
        spans.push({
          name: s.name, kind: s.kind - 1, status: s.status,
          spanContext: () => ({ traceId: s.traceId, spanId: s.spanId, traceFlags: 1 }),
          parentSpanId: s.parentSpanId, startTime: time(s.startTimeUnixNano), endTime: time(s.endTimeUnixNano),
          attributes: plain(s.attributes), droppedAttributesCount: 0, events: [], droppedEventsCount: 0,
          links: [], droppedLinksCount: 0, resource: shared, instrumentationLibrary: scope,
        });
  }
  return spans;
}

const text = require('fs').readFileSync(0, 'utf8');
const given = JSON.parse(text);
for (const resource of given.resourceSpans)
  for (const scope of resource.scopeSpans)
    for (const span of scope.spans) {
      assert.match(span.traceId, /^[0-9a-f]{32}$/);
      assert.match(span.spanId, /^[0-9a-f]{16}$/);
      if ('parentSpanId' in span) assert.match(span.parentSpanId, /^[0-9a-f]{16}$/);
      for (const nanos of [span.startTimeUnixNano, span.endTimeUnixNano]) assert.match(nanos, /^\d{19}$/);
      assert.ok(BigInt(span.endTimeUnixNano) >= BigInt(span.startTimeUnixNano));
      assert.ok(span.flags === 257 || span.flags === 769);
      delete span.flags; // newer than this schema
    }

const base64 = rekey(JSON.parse(JSON.stringify(given)), 'hex', 'base64');
assert.strictEqual(Request.verify(Request.fromObject(base64)), null);
// (empty lists are nothing in protobuf, and would come back as nothing)
const bare = JSON.parse(JSON.stringify(base64), (key, value) => (Array.isArray(value) && value.length === 0 ? undefined : value));
assert.deepStrictEqual(JSON.parse(JSON.stringify(Request.toObject(Request.fromObject(base64),
  { longs: String, bytes: String, enums: Number }), (key, value) => (Array.isArray(value) && value.length === 0 ? undefined : value))),
bare, 'a field is not of the schema');

// (their numbers are JavaScript's: a fence loses its last digits)
const rounded = (key, value) => (key === 'intValue' ? String(Number(value)) : value);
const show = (message) => JSON.parse(JSON.stringify(Request.toObject(Request.decode(message), { longs: String, bytes: String }), rounded));
assert.deepStrictEqual(show(Request.encode(Request.fromObject(base64)).finish()),
  show(transformer.ProtobufTraceSerializer.serializeRequest(readable(given))), 'the transformer makes something else of it');
console.log(`ok ${readable(given).length}`);
