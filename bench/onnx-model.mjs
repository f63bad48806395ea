/** ONNX models of one graph, as the peers need them. */
import { declared, float, int, text } from '../dist/onnx/nodes.js'
import { dataTypes, writeModel } from '../dist/onnx/proto.js'

const kinds = { float, int, string: text }

/**
 * A node of a graph; an input that is left out has the name ''. `attributes`: { name: [kind, value] }, kind float, int or string.
 * @param {{ op: string, inputs: string[], outputs: string[], domain?: string, attributes?: Record<string, [string, number | string]> }} node
 */
export const node = ({ op, inputs, outputs, domain = '', attributes = {} }) => ({
  ...{ opType: op, input: inputs, output: outputs, domain },
  attribute: Object.entries(attributes).map(([name, [kind, value]]) => ({ name, ...kinds[kind](value) })),
})

/** A float32 constant of these sizes. */
export const constant = (name, shape, data) => ({
  ...{ name, dims: shape.map(BigInt), dataType: dataTypes.F32 },
  rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
})

const values = (of) => Object.entries(of).map(([name, shape]) => declared(name, 'F32', shape ?? undefined))

/**
 * The bytes of a model. `inputs` and `outputs`: { name: sizes, or null for any }; `opsets`: { domain: version }.
 * @returns {Uint8Array}
 */
export const model = ({ nodes, constants = [], inputs, outputs, opsets }) =>
  writeModel({
    irVersion: 8n,
    graph: { name: 'graph', node: nodes, initializer: constants, input: values(inputs), output: values(outputs) },
    opsetImport: Object.entries(opsets).map(([domain, version]) => ({ domain, version: BigInt(version) })),
  })
