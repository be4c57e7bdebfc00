package main

import (
	"io"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // the format json, byte for byte upstream's
	"k8s.io/klog/v2"

	"kubelet/internal/config"
)

// setUpLogging applies the logging configuration to the whole process. All of
// the log goes to output, where it goes by default if that is nil.
func setUpLogging(cfg *config.Config, output io.Writer) error {
	gates := featuregate.NewFeatureGate()
	if err := logsapi.AddFeatureGates(gates); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for name := range gates.GetAll() {
		if name != "AllAlpha" && name != "AllBeta" {
			wanted[string(name)] = cfg.Gates.Enabled(config.Gate(name))
		}
	}
	if err := gates.SetFromMap(wanted); err != nil {
		return err
	}
	logs.InitLogs() // lines of the log package go to klog, too
	if output != nil {
		return logsapi.ValidateAndApplyWithOptions(&cfg.Kubelet.Logging, &logsapi.LoggingOptions{ErrorStream: output, InfoStream: output}, gates)
	}
	return logsapi.ValidateAndApplyAsField(&cfg.Kubelet.Logging, gates, field.NewPath("logging"))
}

// logEffective writes down what the kubelet runs with, and what a person
// should know about it.
func logEffective(logger klog.Logger, cfg *config.Config) {
	for _, warning := range cfg.Warnings {
		logger.Info("Warning about the configuration", "warning", warning)
	}
	text, err := cfg.EffectiveYAML()
	if err != nil {
		logger.Error(err, "Effective configuration cannot be shown")
		return
	}
	logger.Info("Effective KubeletConfiguration", "config", text)
}
