/** Types and signatures as HTML, with links to the names that are public. */
import { escaped } from '../layout/html.mjs'
import { placeByName, places } from './reflection.mjs'

/** `to`: see build.mjs. Everything here returns HTML. */
export function typeWriter(to) {
  const link = (name, place) => (place ? `<a href="${to(place.path)}#${place.anchor}">${escaped(name)}</a>` : escaped(name))
  const list = (types, between) => types.map(write).join(between)
  /** In parentheses where it would be read otherwise. */
  const closed = (type) =>
    ['union', 'intersection', 'conditional', 'typeOperator', 'query'].includes(type.type) || type.declaration?.signatures
      ? `(${write(type)})`
      : write(type)

  const parameter = ({ name, flags = {}, type, defaultValue }) =>
    `${flags.isRest ? '...' : ''}${escaped(name === '__namedParameters' ? 'options' : name)}${flags.isOptional || defaultValue !== undefined ? '?' : ''}: ${write(type)}`
  const generics = ({ typeParameters }) =>
    typeParameters
      ? `&lt;${typeParameters.map(({ name, type, default: other }) => `${escaped(name)}${type ? ` extends ${write(type)}` : ''}${other ? ` = ${write(other)}` : ''}`).join(', ')}&gt;`
      : ''
  const call = (signature, arrow = ': ') =>
    `${generics(signature)}(${(signature.parameters ?? []).map(parameter).join(', ')})${arrow}${signature.type ? write(signature.type) : 'void'}`

  function object({ children = [], signatures, indexSignatures = [] }) {
    if (signatures && children.length === 0) return signatures.map((signature) => call(signature, ' =&gt; ')).join(' &amp; ')
    const members = [
      ...indexSignatures.map(({ parameters, type }) => `[${parameters.map(parameter).join(', ')}]: ${write(type)}`),
      ...children.map(member),
    ]
    return members.length === 0 ? '{}' : `{ ${members.join('; ')} }`
  }
  const member = ({ name, flags = {}, type, signatures, getSignature }) =>
    signatures
      ? signatures.map((signature) => `${escaped(name)}${call(signature)}`).join('; ')
      : `${flags.isReadonly ? 'readonly ' : ''}${escaped(name)}${flags.isOptional ? '?' : ''}: ${write(type ?? getSignature?.type)}`

  const writers = {
    intrinsic: ({ name }) => escaped(name),
    literal: ({ value }) =>
      escaped(
        typeof value === 'string'
          ? `'${value}'`
          : typeof value === 'object' && value !== null
            ? `${value.negative ? '-' : ''}${value.value}n`
            : String(value),
      ),
    reference: ({ name, target, typeArguments }) =>
      `${link(name, places.get(target) ?? (typeof target === 'object' ? undefined : placeByName.get(name)))}${typeArguments ? `&lt;${list(typeArguments, ', ')}&gt;` : ''}`,
    union: ({ types }) => types.map(closedInUnion).join(' | '),
    intersection: ({ types }) => types.map(closed).join(' &amp; '),
    array: ({ elementType }) => `${closed(elementType)}[]`,
    tuple: ({ elements = [] }) => `[${list(elements, ', ')}]`,
    namedTupleMember: ({ name, isOptional, element }) => `${escaped(name)}${isOptional ? '?' : ''}: ${write(element)}`,
    optional: ({ elementType }) => `${closed(elementType)}?`,
    rest: ({ elementType }) => `...${closed(elementType)}`,
    reflection: ({ declaration }) => object(declaration),
    query: ({ queryType }) => `typeof ${write(queryType)}`,
    indexedAccess: ({ objectType, indexType }) => `${closed(objectType)}[${write(indexType)}]`,
    typeOperator: ({ operator, target }) => `${operator} ${closed(target)}`,
    conditional: ({ checkType, extendsType, trueType, falseType }) =>
      `${closed(checkType)} extends ${closed(extendsType)} ? ${write(trueType)} : ${write(falseType)}`,
    inferred: ({ name, constraint }) => `infer ${escaped(name)}${constraint ? ` extends ${write(constraint)}` : ''}`,
    mapped: ({ parameter, parameterType, templateType, nameType, optionalModifier, readonlyModifier }) =>
      `{ ${readonlyModifier === '+' ? 'readonly ' : ''}[${escaped(parameter)} in ${write(parameterType)}${nameType ? ` as ${write(nameType)}` : ''}]${{ '+': '?', '-': '-?' }[optionalModifier] ?? ''}: ${write(templateType)} }`,
    predicate: ({ name, asserts, targetType }) =>
      `${asserts ? 'asserts ' : ''}${escaped(name)}${targetType ? ` is ${write(targetType)}` : ''}`,
    templateLiteral: ({ head, tail }) => `\`${escaped(head)}${tail.map(([type, text]) => `\${${write(type)}}${escaped(text)}`).join('')}\``,
    unknown: ({ name }) => escaped(name),
  }
  const closedInUnion = (type) => (type.declaration?.signatures || type.type === 'conditional' ? `(${write(type)})` : write(type))

  function write(type) {
    if (!type) return 'unknown'
    const writer = writers[type.type]
    if (!writer) throw new Error(`site: the API has a type of the kind '${type.type}', which types.mjs doesn't write`)
    return writer(type)
  }
  return { write, call, generics, parameter }
}
