/** ONNX models of one graph, written as onnx.proto says; just what the peers need. Wire types: 0 varint, 2 bytes, 5 four bytes. */
const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))])
const int = (field, n) => Buffer.from([...varint(field * 8), ...varint(n)])
const bytes = (field, data) => Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(data.length)]), data])
const float = (field, x) => {
  const four = Buffer.alloc(4)
  four.writeFloatLE(x)
  return Buffer.concat([Buffer.from(varint(field * 8 + 5)), four])
}
const text = (field, s) => bytes(field, Buffer.from(s))
const message = (field, ...parts) => bytes(field, Buffer.concat(parts))

/** Of attributes: the number of the kind, and how a value is written. */
const kinds = {
  float: [1, (x) => float(2, x)],
  int: [2, (x) => int(3, x)],
  string: [3, (x) => text(4, x)],
}

/**
 * A node of a graph; an input that is left out has the name ''. `attributes`: { name: [kind, value] }, kind float, int or string.
 * @param {{ op: string, inputs: string[], outputs: string[], domain?: string, attributes?: Record<string, [string, number | string]> }} node
 */
export const node = ({ op, inputs, outputs, domain = '', attributes = {} }) =>
  message(
    1,
    ...inputs.map((name) => text(1, name)),
    ...outputs.map((name) => text(2, name)),
    text(4, op),
    ...Object.entries(attributes).map(([name, [kind, value]]) => message(5, text(1, name), kinds[kind][1](value), int(20, kinds[kind][0]))),
    text(7, domain),
  )

const float32 = 1

/** A float32 constant of these sizes. */
export const constant = (name, shape, data) =>
  message(
    5,
    ...shape.map((n) => int(1, n)),
    int(2, float32),
    text(8, name),
    bytes(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
  )

/** A float32 input or output; without sizes, of any. */
const value = (field, [name, shape]) =>
  message(
    field,
    text(1, name),
    message(2, message(1, int(1, float32), ...(shape ? [message(2, ...shape.map((n) => message(1, int(1, n))))] : []))),
  )

/**
 * The bytes of a model. `inputs` and `outputs`: { name: sizes, or null for any }; `opsets`: { domain: version }.
 * @returns {Buffer}
 */
export function model({ nodes, constants = [], inputs, outputs, opsets }) {
  const graph = message(
    7,
    ...nodes,
    text(2, 'graph'),
    ...constants,
    ...Object.entries(inputs).map((entry) => value(11, entry)),
    ...Object.entries(outputs).map((entry) => value(12, entry)),
  )
  const imports = Object.entries(opsets).map(([domain, version]) => message(8, text(1, domain), int(2, version)))
  return Buffer.concat([int(1, 8), graph, ...imports])
}
