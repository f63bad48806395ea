import { openDevice } from 'fastweights'
import { Transformer } from 'fastweights/nn'

console.log(openDevice, Transformer)
