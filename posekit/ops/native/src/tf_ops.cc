#include "tf_ops.h"

#include <cstdio>

namespace posekit {
namespace {

// Shapes are set in Python, where they are checked.
void unknown_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

// A static initialiser must not throw: TensorFlow reports an op that is missing when it is asked for.
void report(const char* op, const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "posekit: %s was not registered: %s\n", op, status.message().c_str());
}

}  // namespace

void define_op(const char* name, std::initializer_list<const char*> attributes,
               std::initializer_list<const char*> inputs, std::initializer_list<const char*> outputs) {
  TF_OpDefinitionBuilder* builder = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(builder, attribute);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(builder, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(builder, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, unknown_shapes);
  Status status;
  TF_RegisterOpDefinition(builder, status);
  report(name, status);
}

void register_kernel(const char* op, const char* device, const char* attribute, TF_DataType type,
                     void* (*create)(TF_OpKernelConstruction*), void (*compute)(void*, TF_OpKernelContext*),
                     void (*destroy)(void*), std::initializer_list<const char*> on_host) {
  TF_KernelBuilder* builder = TF_NewKernelBuilder(op, device, create, compute, destroy);
  for (const char* input : on_host) TF_KernelBuilder_HostMemory(builder, input);
  Status status;
  if (attribute) TF_KernelBuilder_TypeConstraint(builder, attribute, type, status);
  report(op, status);
  TF_RegisterKernelBuilder(op, builder, status);
  report(op, status);
}

}  // namespace posekit
