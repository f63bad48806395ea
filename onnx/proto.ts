/**
 * ONNX files: bytes to messages and back. The fields stand here as a table, with their numbers in the format's onnx.proto, as far as they are
 * used; the bytes are @bufbuild/protobuf's business. Files come from strangers: whatever is wrong with one is an OnnxError.
 * Tests: test/onnx/.
 */

import type { MessageInitShape } from '@bufbuild/protobuf'
import { create, createFileRegistry, type DescMessage, fromBinary, type Message, toBinary } from '@bufbuild/protobuf'
import {
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  type FieldDescriptorProtoSchema,
  FileDescriptorProtoSchema,
} from '@bufbuild/protobuf/wkt'
import { fileKind } from '../nn/foreign.ts'

/** Its message is one line for the user. */
export class OnnxError extends Error {
  override name = 'OnnxError'
}

const { DOUBLE, FLOAT, INT32, INT64, STRING, BYTES, MESSAGE } = FieldDescriptorProto_Type
const scalars = { double: DOUBLE, float: FLOAT, int32: INT32, int64: INT64, string: STRING, bytes: BYTES } as const
type Scalars = { double: number; float: number; int32: number; int64: bigint; string: string; bytes: Uint8Array }

/** By message: its fields, each with its number and kind; `many` are lists. */
const messages = {
  ModelProto: {
    irVersion: [1, 'int64'],
    producerName: [2, 'string'],
    producerVersion: [3, 'string'],
    docString: [6, 'string'],
    graph: [7, 'GraphProto'],
    opsetImport: [8, 'OperatorSetIdProto', 'many'],
    metadataProps: [14, 'StringStringEntryProto', 'many'],
  },
  OperatorSetIdProto: { domain: [1, 'string'], version: [2, 'int64'] },
  StringStringEntryProto: { key: [1, 'string'], value: [2, 'string'] },
  GraphProto: {
    node: [1, 'NodeProto', 'many'],
    name: [2, 'string'],
    initializer: [5, 'TensorProto', 'many'],
    input: [11, 'ValueInfoProto', 'many'],
    output: [12, 'ValueInfoProto', 'many'],
  },
  NodeProto: {
    input: [1, 'string', 'many'],
    output: [2, 'string', 'many'],
    name: [3, 'string'],
    opType: [4, 'string'],
    attribute: [5, 'AttributeProto', 'many'],
    domain: [7, 'string'],
  },
  AttributeProto: {
    name: [1, 'string'],
    f: [2, 'float'],
    i: [3, 'int64'],
    s: [4, 'bytes'],
    t: [5, 'TensorProto'],
    g: [6, 'GraphProto'],
    floats: [7, 'float', 'many'],
    ints: [8, 'int64', 'many'],
    type: [20, 'int32'],
  },
  TensorProto: {
    dims: [1, 'int64', 'many'],
    dataType: [2, 'int32'],
    floatData: [4, 'float', 'many'],
    int32Data: [5, 'int32', 'many'],
    int64Data: [7, 'int64', 'many'],
    name: [8, 'string'],
    rawData: [9, 'bytes'],
    externalData: [13, 'StringStringEntryProto', 'many'],
    dataLocation: [14, 'int32'],
  },
  ValueInfoProto: { name: [1, 'string'], type: [2, 'TypeProto'] },
  TypeProto: { tensorType: [1, 'TensorTypeProto'] },
  TensorTypeProto: { elemType: [1, 'int32'], shape: [2, 'TensorShapeProto'] },
  TensorShapeProto: { dim: [1, 'DimensionProto', 'many'] },
  DimensionProto: { dimValue: [1, 'int64'], dimParam: [2, 'string'] },
} as const

type Table = typeof messages
type Name = keyof Table
type Plain<K> = K extends keyof Scalars ? Scalars[K] : K extends Name ? Proto<K> : never
/** A message as it is read. A single field that a file lacks has the value of nothing: 0, '', undefined for a message. */
export type Proto<N extends Name> = {
  [F in keyof Table[N]]: Table[N][F] extends readonly [number, infer K, 'many']
    ? Plain<K>[]
    : Table[N][F] extends readonly [number, infer K]
      ? K extends Name
        ? Proto<K> | undefined
        : Plain<K>
      : never
}
type PlainInit<K> = K extends Name ? ProtoInit<K> : Plain<K>
/** A message to be written: any field may be left out. */
export type ProtoInit<N extends Name> = {
  [F in keyof Table[N]]?: Table[N][F] extends readonly [number, infer K, 'many']
    ? readonly PlainInit<K>[]
    : Table[N][F] extends readonly [number, infer K]
      ? PlainInit<K>
      : never
}

/** AttributeProto.type, of the kinds that are used. */
export const attributeTypes = { float: 1, int: 2, string: 3, tensor: 4, graph: 5, floats: 6, ints: 7 } as const
/** TensorProto.data_type, and the same in safetensors. */
export const dataTypes = { F32: 1, I32: 6, I64: 7, F16: 10, BF16: 16 } as const
export type DataType = keyof typeof dataTypes
export const dataTypeOf = (code: number): DataType | undefined =>
  (Object.keys(dataTypes) as DataType[]).find((name) => dataTypes[name] === code)

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

function field(
  name: string,
  [number, kind, many]: readonly [number, string, 'many'?],
): MessageInitShape<typeof FieldDescriptorProtoSchema> {
  const label = many ? FieldDescriptorProto_Label.REPEATED : FieldDescriptorProto_Label.OPTIONAL
  const type = scalars[kind as keyof typeof scalars]
  return { name: snake(name), jsonName: name, number, label, ...(type ? { type } : { type: MESSAGE, typeName: `.onnx.${kind}` }) }
}

const registry = createFileRegistry(
  create(FileDescriptorProtoSchema, {
    name: 'onnx.proto',
    package: 'onnx',
    syntax: 'proto2',
    messageType: Object.entries(messages).map(([name, fields]) => ({
      name,
      field: Object.entries(fields).map(([name, row]) => field(name, row)),
    })),
  }),
  () => undefined,
)
const schema: DescMessage = registry.getMessage('onnx.ModelProto')!

/** The model in a file's bytes. */
export function readModel(bytes: Uint8Array): Proto<'ModelProto'> & { graph: Proto<'GraphProto'> } {
  const fail = (problem: string): never => {
    // Any bytes may be read as some message or other: what they look like is only asked where it has no graph.
    const kind = fileKind(bytes)?.what
    throw new OnnxError(kind === undefined ? problem : `the file is ${kind}, not an ONNX model`)
  }
  if (bytes.length === 0) fail('the file is empty (a download that was broken off?)')
  let model: Proto<'ModelProto'>
  try {
    model = fromBinary(schema, bytes, { readUnknownFields: false }) as never
  } catch (error) {
    return fail(`the file isn't an ONNX model, or is broken: ${(error as Error).message} (truncated?)`)
  }
  const { graph } = model
  return graph === undefined ? fail("the file isn't an ONNX model: it has no graph") : Object.assign(model, { graph })
}

/** The bytes of a model. */
export const writeModel = (model: ProtoInit<'ModelProto'>): Uint8Array => toBinary(schema, create(schema, model as never) as Message)
